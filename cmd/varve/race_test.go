package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// swapper exchanges a directory and a file with symbolic links that lead to the same
// names of the host, without end. Its argument is a directory of the host.
const swapper = `package main

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func swap(a, b string) {
	p, err := syscall.BytePtrFromString(a)
	must(err)
	q, err := syscall.BytePtrFromString(b)
	must(err)
	const cwd, exchange = ^uintptr(99), 2
	for {
		if _, _, errno := syscall.Syscall6(316, cwd, uintptr(unsafe.Pointer(p)), cwd, uintptr(unsafe.Pointer(q)), exchange, 0); errno != 0 && errno != syscall.ENOENT && errno != syscall.ENOTDIR {
			panic(errno)
		}
	}
}

func main() {
	host := os.Args[1]
	must(os.MkdirAll("/p/x/deep", 0o777))
	must(os.WriteFile("/p/x/canary", []byte("inside"), 0o666))
	must(os.WriteFile("/p/x/deep/canary", []byte("inside"), 0o666))
	must(os.Symlink(host, "/p/xlink"))
	must(os.Symlink(host, "/p/x/deeplink"))
	must(os.Symlink(host+"/canary", "/p/flink"))
	must(os.WriteFile("/p/f", []byte("inside"), 0o666))
	fmt.Println("ready")
	go swap("/p/x", "/p/xlink")
	go swap("/p/x/deep", "/p/x/deeplink")
	swap("/p/f", "/p/flink")
}
`

// TestCopyRace: while a program in the container exchanges names with symbolic links that
// lead to the host, nothing of the host is read or written (CVE-2018-15664). VARVE_RACES
// is the number of rounds.
func TestCopyRace(t *testing.T) {
	testenv.FUSE(t)
	program := testenv.Dir(t)
	require.NoError(t, os.WriteFile(filepath.Join(program, "main.go"), []byte(swapper), 0o644))
	build := exec.Command("go", "build", "-o", filepath.Join(program, "swapper"), filepath.Join(program, "main.go"))
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.Chmod(filepath.Join(program, "swapper"), 0o755))
	rounds := 120
	if text := os.Getenv("VARVE_RACES"); text != "" {
		rounds, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	eachUser(t, func(t *testing.T, h *home) {
		host := h.dir(t)
		canary := filepath.Join(host, "canary")
		require.NoError(t, os.WriteFile(canary, []byte("secret"), 0o666))
		require.NoError(t, os.Chmod(canary, 0o666))
		before, err := os.Stat(canary)
		require.NoError(t, err)
		files := h.dir(t)
		require.NoError(t, os.WriteFile(filepath.Join(files, "canary"), []byte("planted"), 0o644))
		require.NoError(t, os.Chmod(filepath.Join(files, "canary"), 0o644))
		cmd, _ := h.start(t, "--name", "race", "-v", program+":/m:ro", "small:1", "/m/swapper", host)
		h.isUp(t)
		copied := 0
		for i := range rounds {
			to := filepath.Join(files, "out"+strconv.Itoa(i))
			args := [][]string{
				{"race:/p/x/canary", to}, {filepath.Join(files, "canary"), "race:/p/x/canary"}, {"race:/p", to},
				{filepath.Join(files, "canary"), "race:/p/x/deep"}, {"-L", "race:/p/f", to}, {filepath.Join(files, "canary"), "race:/p/f"},
			}[i%6]
			said, code := h.run(t, append([]string{"cp"}, args...)...)
			require.Contains(t, []int{0, 1}, code, said)
			if code == 0 {
				copied++
			}
			if i%2 == 0 {
				h.requireNoSecret(t, to)
			}
		}
		require.NotZero(t, copied, "nothing was ever copied")
		after, err := os.Stat(canary)
		require.NoError(t, err)
		require.Equal(t, before, after)
		list, err := os.ReadDir(host)
		require.NoError(t, err)
		require.Len(t, list, 1, "something was made on the host")
		data, err := os.ReadFile(canary)
		require.NoError(t, err)
		require.Equal(t, "secret", string(data))
		h.ok(t, "rm", "-f", "race")
		require.Equal(t, 137, exitCode(t, cmd.Wait()))
	})
}

// dir is a directory of the user of the home.
func (h *home) dir(t *testing.T) string {
	t.Helper()
	if h.user != nil {
		return h.user.Dir(t)
	}
	return testenv.Dir(t)
}

// requireNoSecret looks through what was copied out, and removes it.
func (h *home) requireNoSecret(t *testing.T, path string) {
	t.Helper()
	script := `if [ -e "$0" ] && find "$0" -type f -exec cat {} + | grep -q secret; then echo leaked; fi; rm -rf "$0"`
	cmd := exec.Command("sh", "-c", script, path)
	if h.user != nil {
		cmd = h.user.Command(context.Background(), "sh", "-c", script, path)
	}
	out, _ := cmd.Output() // nothing may have been copied
	require.NotContains(t, string(out), "leaked")
}
