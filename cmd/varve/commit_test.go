package main

import (
	"os"
	"os/exec"
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

// mapper maps a file of the container, changes it, and says so. It never syncs.
const mapper = `package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

func main() {
	f, err := os.Create("/mapped")
	if err == nil {
		err = f.Truncate(8192)
	}
	if err != nil {
		panic(err)
	}
	p, err := syscall.Mmap(int(f.Fd()), 0, 8192, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	copy(p[5000:], "written through a mapping")
	fmt.Println("ready")
	time.Sleep(time.Hour)
}
`

// TestCommitHasMappedWrites: what a program has written through a mapping is in the image
// of the running container, though the kernel has not written it yet.
func TestCommitHasMappedWrites(t *testing.T) {
	testenv.FUSE(t)
	dir := testenv.Dir(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(mapper), 0o644))
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "mapper"), filepath.Join(dir, "main.go"))
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.Chmod(filepath.Join(dir, "mapper"), 0o755))
	eachUser(t, func(t *testing.T, h *home) {
		for _, paused := range []bool{false, true} {
			cmd, _ := h.start(t, "--name", "maps", "-v", dir+":/m:ro", "small:1", "/m/mapper")
			h.isUp(t)
			if paused {
				h.ok(t, "pause", "maps")
			}
			h.ok(t, "commit", "maps", "mapped:1")
			require.Equal(t, paused, h.state(t).Paused(), "as it was before")
			h.ok(t, "rm", "-f", "maps")
			require.Equal(t, 137, exitCode(t, cmd.Wait()))
			require.Equal(t, "written through a mapping", h.ok(t, "run", "--rm", "mapped:1", "sh", "-c", "dd if=/mapped bs=1 skip=5000 count=25 2>/dev/null"))
		}
	})
}
