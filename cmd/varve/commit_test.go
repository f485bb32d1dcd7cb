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
