package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// TestKilledLoad ends loads at many moments of their way. Images are there all or
// none, what was there before stays, and a check finds nothing but leftovers.
func TestKilledLoad(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	testenv.CheckLeaks(t)
	h := newHome(t, nil)
	h.ok(t, "run", "--name", "one", "small:1", "sh", "-c", "echo 1 > /one; mkdir /d; for i in $(seq 300); do echo $i > /d/$i; done")
	h.ok(t, "commit", "one", "big:1")
	h.ok(t, "rm", "one")
	file := filepath.Join(testenv.Dir(t), "images.tar")
	h.ok(t, "save", "-o", file, "big:1", "small:1")
	h.ok(t, "rmi", "big:1")
	h.ok(t, "tag", "small:1", "kept:1")

	whole := 0
	for delay := 2 * time.Millisecond; whole < 3 && delay < 3*time.Second; delay += delay/4 + time.Millisecond {
		cmd := h.command(t.Context(), "load", "-i", file)
		require.NoError(t, cmd.Start())
		time.Sleep(delay)
		_ = cmd.Process.Kill() // it may have ended
		acknowledged := cmd.Wait() == nil

		names := h.ok(t, "images", "--format", "{{.Repository}}:{{.Tag}}")
		require.Contains(t, names, "kept:1\n", "after %s", delay)
		require.Contains(t, names, "small:1\n", "after %s", delay)
		if acknowledged {
			whole++
			require.Contains(t, names, "big:1\n", "after %s", delay)
		}
		out, code := h.run(t, "system", "check", "--deep")
		if code != 0 { // between the copies and the database
			require.Contains(t, out, "older than the copies", "after %s", delay)
			h.ok(t, "system", "check", "--repair")
			out = h.ok(t, "system", "check", "--deep")
		}
		require.Contains(t, out, ": 0 problems.", "after %s", delay)
		if strings.Contains(h.ok(t, "images", "-q", "big:1"), "\n") {
			require.Equal(t, "1\n300\n", h.ok(t, "run", "--rm", "big:1", "cat", "/one", "/d/300"))
			h.ok(t, "rmi", "big:1")
		}
	}
	require.Equal(t, 3, whole, "the last ones came through")
	h.ok(t, "rmi", "kept:1")
}
