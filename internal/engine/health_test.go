package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestHealthOver: what is asked for goes over what the image has, field by field.
func TestHealthOver(t *testing.T) {
	image := &Healthcheck{Test: []string{"CMD", "look"}, Interval: time.Minute, Retries: 7}
	require.Same(t, image, HealthOptions{}.over(image))
	require.Nil(t, HealthOptions{}.over(nil))
	require.Equal(t, &Healthcheck{Test: []string{"NONE"}}, HealthOptions{None: true}.over(image))
	require.Equal(t, &Healthcheck{Test: []string{"CMD-SHELL", "x"}, Interval: time.Minute, Timeout: time.Second, Retries: 7},
		HealthOptions{Cmd: "x", Timeout: time.Second}.over(image))
	require.Equal(t, 7, image.Retries)
	require.Empty(t, image.Timeout, "the image's own is not changed")
}

// TestHealthCommand: the forms of an image's check.
func TestHealthCommand(t *testing.T) {
	for _, c := range []struct {
		check *Healthcheck
		want  []string
	}{
		{nil, nil}, {&Healthcheck{}, nil}, {&Healthcheck{Test: []string{"NONE"}}, nil}, {&Healthcheck{Test: []string{"CMD"}}, nil},
		{&Healthcheck{Test: []string{"CMD-SHELL"}}, nil}, {&Healthcheck{Test: []string{"WHAT", "x"}}, nil},
		{&Healthcheck{Test: []string{"CMD", "a", "b"}}, []string{"a", "b"}},
		{&Healthcheck{Test: []string{"CMD-SHELL", "a b"}}, []string{"/bin/sh", "-c", "a b"}},
	} {
		require.Equal(t, c.want, c.check.command(nil))
	}
	require.Equal(t, []string{"/bin/ash", "-ec", "a"}, (&Healthcheck{Test: []string{"CMD-SHELL", "a"}}).command([]string{"/bin/ash", "-ec"}))
	check := Healthcheck{}.withDefaults()
	require.Equal(t, Healthcheck{Interval: 30 * time.Second, Timeout: 30 * time.Second, StartInterval: 5 * time.Second, Retries: 3}, check)
}
