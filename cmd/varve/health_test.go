package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/testenv"
)

// health is what inspect says of a container; nil if it is not checked.
func (h *home) health(t *testing.T, name string) *container.Health {
	t.Helper()
	var health *container.Health
	require.NoError(t, json.Unmarshal([]byte(h.ok(t, "inspect", "-f", "{{json .State.Health}}", name)), &health))
	return health
}

// becomes waits until a container has a status, and the last check said so.
func (h *home) becomes(t *testing.T, name, status string) *container.Health {
	t.Helper()
	var health *container.Health
	testenv.Eventually(t, name+" becomes "+status, func() bool {
		health = h.health(t, name)
		return health.Status == status
	})
	return health
}

// TestHealth: the checks of a container, from its start to its end.
func TestHealth(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		// Before it has been well once, failures do not count in its first hour.
		h.ok(t, "run", "-d", "--name", "well", "--health-cmd", "echo looking; test -e /good", "--health-interval", "50ms", "--health-retries", "2",
			"--health-start-period", "1h", "--health-start-interval", "50ms", "small:1", "sleep", "1000")
		testenv.Eventually(t, "there are checks", func() bool { return len(h.health(t, "well").Log) >= 3 })
		health := h.health(t, "well")
		require.Equal(t, "starting", health.Status)
		require.Zero(t, health.FailingStreak)
		require.Equal(t, 1, health.Log[0].ExitCode)
		require.Equal(t, "looking\n", health.Log[0].Output)
		require.False(t, health.Log[0].End.Before(health.Log[0].Start))
		require.Contains(t, h.ok(t, "ps"), " (health: starting) ")
		require.Contains(t, h.ok(t, "ps", "--filter", "health=starting", "--format", "{{.Names}}"), "well")

		h.ok(t, "exec", "well", "touch", "/good")
		h.becomes(t, "well", "healthy")
		require.Contains(t, h.ok(t, "ps"), " (healthy) ")
		h.ok(t, "exec", "well", "rm", "/good")
		health = h.becomes(t, "well", "unhealthy")
		require.GreaterOrEqual(t, health.FailingStreak, 2)
		require.LessOrEqual(t, len(health.Log), 5)
		require.Contains(t, h.ok(t, "ps", "--filter", "health=unhealthy"), " (unhealthy) ")
		require.NotContains(t, h.ok(t, "ps", "--filter", "health=healthy", "--filter", "health=none", "--format", "{{.Names}}"), "well")

		// Nobody asks one that is paused.
		h.ok(t, "pause", "well")
		require.Contains(t, h.ok(t, "ps"), " (Paused) ")
		h.ok(t, "unpause", "well")
		h.ok(t, "stop", "-t", "0", "well")
		require.Equal(t, "unhealthy", h.health(t, "well").Status, "docker's word for one that has ended")
		require.NotContains(t, h.ok(t, "ps", "-a"), "healthy")
		h.ok(t, "start", "well")
		require.Equal(t, "starting", h.health(t, "well").Status)
		h.ok(t, "rm", "-f", "well")
		said := h.ok(t, "events", "--since", "1h", "--until", "0s", "--format", "{{.Action}}", "-f", "event=health_status")
		require.Equal(t, "health_status: healthy\nhealth_status: unhealthy\n", said)
	})
}

// TestHealthOfImages: an image says how its containers are checked, flags say it anew, and
// what does not answer in time, says too much, or is not there, is not well.
func TestHealthOfImages(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		h.ok(t, "create", "--name", "base", "small:1", "sleep", "1000")
		h.ok(t, "commit", "-c", `HEALTHCHECK --interval=50ms --retries=1 CMD ["grep", "-q", "root", "/etc/motd"]`, "base", "checked:1")
		h.ok(t, "rm", "base")
		h.ok(t, "run", "-d", "--name", "image", "checked:1")
		h.becomes(t, "image", "healthy")
		h.ok(t, "run", "-d", "--name", "none", "--no-healthcheck", "checked:1")
		require.Nil(t, h.health(t, "none"))
		require.Equal(t, "none\n", h.ok(t, "ps", "--filter", "health=none", "--format", "{{.Names}}"))
		h.ok(t, "run", "-d", "--name", "slow", "--health-cmd", "sleep 1000", "--health-timeout", "100ms", "checked:1")
		health := h.becomes(t, "slow", "unhealthy")
		require.Equal(t, -1, health.Log[0].ExitCode)
		require.Equal(t, "Health check exceeded timeout (100ms)", health.Log[0].Output)
		h.ok(t, "run", "-d", "--name", "loud", "--health-cmd", "yes | head -c 1000000; exit 7", "checked:1")
		health = h.becomes(t, "loud", "unhealthy")
		require.Equal(t, 7, health.Log[0].ExitCode)
		require.Equal(t, strings.Repeat("y\n", 2048), health.Log[0].Output)
		h.ok(t, "run", "-d", "--name", "left", "--health-cmd", "sleep 1000 & echo there", "checked:1")
		health = h.becomes(t, "left", "healthy")
		require.Equal(t, "there\n", health.Log[0].Output, "what a check leaves behind does not hold it up")
		for _, name := range []string{"image", "none", "slow", "loud", "left"} {
			h.ok(t, "rm", "-f", name)
		}
		h.ok(t, "create", "--name", "base", "small:1", "sleep", "1000")
		h.ok(t, "commit", "-c", `HEALTHCHECK --interval=50ms --retries=1 CMD ["/not/there"]`, "base", "checked:1")
		h.ok(t, "rm", "base")
		h.ok(t, "run", "-d", "--name", "absent", "checked:1")
		health = h.becomes(t, "absent", "unhealthy")
		require.Equal(t, -1, health.Log[0].ExitCode)
		require.Contains(t, health.Log[0].Output, "/not/there")
		h.ok(t, "rm", "-f", "absent")
		h.ok(t, "rmi", "-f", "checked:1")
	})
}

// TestHealthRefuses: docker's words for flags that can not be.
func TestHealthRefuses(t *testing.T) {
	h := newHome(t, nil)
	for _, c := range []struct{ flags, want string }{
		{"--no-healthcheck --health-cmd true", "--no-healthcheck conflicts with --health-* options"},
		{"--health-interval -1s", "--health-interval cannot be negative"},
		{"--health-timeout -1s", "--health-timeout cannot be negative"},
		{"--health-start-period -1s", "--health-start-period cannot be negative"},
		{"--health-start-interval -1s", "--health-start-interval cannot be negative"},
		{"--health-retries -1", "--health-retries cannot be negative"},
		{"--health-interval 10us", "Interval in Healthcheck cannot be less than 1ms"},
		{"--health-interval often", "invalid argument"},
	} {
		args := append(append([]string{"run", "--rm"}, strings.Fields(c.flags)...), "small:1", "true")
		said, code := h.run(t, args...)
		require.Equal(t, 125, code, c.flags)
		require.Contains(t, said, c.want)
	}
}
