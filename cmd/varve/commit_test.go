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

// TestCommitPauses: an image of a running container is of one moment, and the container
// goes on. Its program writes the same lines to two files in turn.
func TestCommitPauses(t *testing.T) {
	testenv.FUSE(t)
	eachUser(t, func(t *testing.T, h *home) {
		cmd, _ := h.start(t, "--name", "busy", "small:1", "sh", "-c",
			"head -c 5000000 /dev/zero > /ballast; i=0; echo ready; while :; do i=$((i+1)); echo $i >> /a; echo $i >> /b; done")
		h.isUp(t)
		last := 0
		for _, image := range []string{"one:1", "two:1", "three:1"} {
			upper := filepath.Join(filepath.Dir(h.stateFile(t)), "upper/b")
			testenv.Eventually(t, "it goes on", func() bool {
				data, err := os.ReadFile(upper)
				return err == nil && strings.Count(string(data), "\n") > last
			})
			h.ok(t, "commit", "busy", image)
			text := h.ok(t, "run", "--rm", image, "sh", "-c", "wc -l < /a; wc -l < /b; wc -c < /ballast")
			n := strings.Fields(text)
			a, errA := strconv.Atoi(n[0])
			b, errB := strconv.Atoi(n[1])
			require.NoError(t, errA)
			require.NoError(t, errB)
			require.True(t, a == b || a == b+1, "%d lines in one file, %d in the other", a, b)
			require.Greater(t, a, last)
			require.Equal(t, "5000000", n[2])
			last = a
		}
		require.False(t, h.state(t).Paused())
		h.ok(t, "commit", "--pause=false", "busy", "loose:1")
		h.ok(t, "rm", "-f", "busy")
		require.Equal(t, 137, exitCode(t, cmd.Wait()))
	})
}

// TestKilledCommitLetsGo: a container goes on when the commit that stopped it is killed.
func TestKilledCommitLetsGo(t *testing.T) {
	testenv.FUSE(t)
	eachUser(t, func(t *testing.T, h *home) {
		cmd, _ := h.start(t, "--name", "busy", "small:1", "sh", "-c",
			"mkdir /many; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i > /many/$i; done; echo ready; while :; do echo x >> /lines; done")
		h.isUp(t)
		for range 3 {
			commit := h.command(t.Context(), "commit", "busy", "never:1")
			require.NoError(t, commit.Start())
			for !h.state(t).Paused() && !ended(commit.Process.Pid) {
			} // it may be too quick to be seen
			_ = commit.Process.Kill() // it may have ended
			_ = commit.Wait()
			testenv.Eventually(t, "the container goes on", func() bool { return !h.state(t).Paused() })
		}
		h.ok(t, "rm", "-f", "busy")
		require.Equal(t, 137, exitCode(t, cmd.Wait()))
	})
}

// ended tells whether a child has ended and waits to be waited for.
func ended(pid int) bool {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err != nil || strings.Contains(string(raw), ") Z ")
}
