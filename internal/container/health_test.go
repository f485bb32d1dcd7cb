package container

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

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
