package unionfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestPosix runs go-fuse's conformance tests on a view whose directory comes
// from a lower layer, from the upper, or from both; in the modes of I/O but the
// first, from both.
func TestPosix(t *testing.T) {
	places := map[string]func(t *testing.T, w *world, dir string){
		"lower": func(t *testing.T, w *world, dir string) { mkdir(t, w.lowers[1], dir) },
		"upper": func(t *testing.T, w *world, dir string) { mkdir(t, w.upper, dir) },
		"mixed": func(t *testing.T, w *world, dir string) {
			mkdir(t, w.lowers[0], dir)
			mkdir(t, w.lowers[1], dir)
			mkdir(t, w.upper, dir)
		},
	}
	for where, prepare := range places {
		t.Run(where, func(t *testing.T) { testPosix(t, Cached, prepare) })
	}
	for _, mode := range otherModes {
		t.Run(mode.String(), func(t *testing.T) { testPosix(t, mode, places["mixed"]) })
	}
}

func testPosix(t *testing.T, mode Mode, prepare func(t *testing.T, w *world, dir string)) {
	needsMode(t, mode)
	for name, test := range posixtest.All {
		if name == "FcntlFlockLocksFile" {
			continue // fails on every local file system; see TestLocks
		}
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			prepare(t, w, "d")
			before := hashTrees(t, w.lowers)
			opt := w.options()
			opt.IO = mode
			if name == "FdLeak" { // it counts what this process has open, and each thread of io_uring has a ring (TestUringThreads)
				opt.Transport = TransportDev
			}
			w.mount(t, opt)
			test(t, filepath.Join(w.mnt, "d"))
			require.Equal(t, before, hashTrees(t, w.lowers), "a lower layer was changed")
		})
	}
}

func mkdir(t *testing.T, root, dir string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
}

// TestLocks is what posixtest's FcntlFlockLocksFile means to test. That one locks
// twice from one process, where POSIX locks never conflict (fcntl(2)), and fails
// on ext4 and tmpfs too; go-fuse leaves it out for them.
func TestLocks(t *testing.T) {
	w := newWorld(t, 1)
	require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], "file"), []byte("x"), 0o644))
	w.mount(t, w.options())
	path := filepath.Join(w.mnt, "file")
	try := func() string {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), lockEnv+"="+path)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	require.Equal(t, "locked", try())
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	require.Equal(t, "refused", try())
	require.NoError(t, unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_UNLCK}))
	require.Equal(t, "locked", try())
}

// lockEnv makes the test binary try to lock the file that its value names.
const lockEnv = "VARVE_TEST_LOCK"

func lockForTest(path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	}
	switch {
	case err == nil:
		fmt.Print("locked")
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		fmt.Print("refused")
	default:
		fmt.Print(err)
	}
}
