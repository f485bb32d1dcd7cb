package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/container"
)

// TestHealthOver: what is asked for goes over what the image has, field by field.
func TestHealthOver(t *testing.T) {
	image := &container.Healthcheck{Test: []string{"CMD", "look"}, Interval: time.Minute, Retries: 7}
	require.Same(t, image, HealthOptions{}.over(image))
	require.Nil(t, HealthOptions{}.over(nil))
	require.Equal(t, &container.Healthcheck{Test: []string{"NONE"}}, HealthOptions{None: true}.over(image))
	require.Equal(t, &container.Healthcheck{Test: []string{"CMD-SHELL", "x"}, Interval: time.Minute, Timeout: time.Second, Retries: 7},
		HealthOptions{Cmd: "x", Timeout: time.Second}.over(image))
	require.Equal(t, 7, image.Retries)
	require.Empty(t, image.Timeout, "the image's own is not changed")
}
