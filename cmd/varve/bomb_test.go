package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// TestBombs: a container that makes as many processes as it can, and one that takes all
// the memory it can, are held, and varve itself still answers.
func TestBombs(t *testing.T) {
	needGroups(t)
	eachUser(t, func(t *testing.T, h *home) {
		h.run(t, "run", "-d", "--name", "forks", "--pids-limit", "40", "small:1", "sh", "-c",
			"echo ready; b() { while :; do b & sleep 0.3; done; }; b 2>/dev/null")
		h.run(t, "run", "-d", "--name", "hog", "-m", "16m", "small:1", "sh", "-c",
			"echo ready; while :; do dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; sleep 0.2; done")
		for _, name := range []string{"forks", "hog"} {
			testenv.Eventually(t, name+" has begun", func() bool {
				out, _ := h.run(t, "logs", name)
				return strings.Contains(out, "ready")
			})
		}
		require.Contains(t, h.ok(t, "ps", "--format", "{{.Names}}"), "hog")
		if h.user == nil {
			said := strings.Fields(h.ok(t, "stats", "--no-stream", "--format", "{{.PIDs}}", "forks")) // a warning may come first
			count, err := strconv.Atoi(said[len(said)-1])
			require.NoError(t, err)
			require.LessOrEqual(t, count, 40)
		}
		require.Equal(t, "fine\n", h.ok(t, "run", "--rm", "small:1", "echo", "fine"))
		h.ok(t, "rm", "-f", "forks", "hog")
		require.Empty(t, h.ok(t, "ps", "-a", "-q"))
	})
}

// TestPlantedLinks: what a supervisor writes in the container's directory never goes
// through a link that somebody has put there.
func TestPlantedLinks(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		h.ok(t, "create", "--name", "first", "small:1", "echo", "says")
		dir := filepath.Dir(h.stateFile(t))
		canary := filepath.Join(testenv.Dir(t), "canary")
		require.NoError(t, os.WriteFile(canary, []byte("sings"), 0o666))
		require.NoError(t, os.Chmod(canary, 0o666))
		before, err := os.Stat(canary)
		require.NoError(t, err)
		for _, name := range []string{"hosts", "hostname", "resolv.conf", "log.jsonl", "supervisor.log"} {
			link := filepath.Join(dir, name)
			_ = os.Remove(link) // it may not be there
			require.NoError(t, os.Symlink(canary, link))
			_, code := h.run(t, "start", "-a", "first")
			require.NotZero(t, code, name)
			after, err := os.Stat(canary)
			require.NoError(t, err)
			require.Equal(t, before, after, name)
			require.NoError(t, os.Remove(link))
		}
		require.Contains(t, h.ok(t, "start", "-a", "first"), "says")
		h.ok(t, "rm", "first")
	})
}
