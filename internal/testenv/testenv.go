package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// NotRoot skips the test when it runs as root; for what must be seen with the
// eyes of the user who started the test.
func NotRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Skip("needs an ordinary user: run `make test` as one")
	}
}

// FUSE skips the test when the process cannot open /dev/fuse.
func FUSE(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs /dev/fuse: %v; run `modprobe fuse && chmod 0666 /dev/fuse` as root", err)
	}
	require.NoError(t, f.Close())
}

// Program returns the path of a program of the host, or skips the test with the
// name of the Debian package that has it.
func Program(t testing.TB, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s: run `apt-get install %s` as root", name, debianPackage)
	}
	return path
}

// Dir makes a directory that every user may enter (unlike testing.TB.TempDir,
// whose parent is closed to others) and removes it when the test ends.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "varve-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

// CacheDir returns the directory of what is too dear to make anew for each run:
// varve-test under $XDG_CACHE_HOME or ~/.cache. It is made if absent and lies
// outside the repository.
func CacheDir(t testing.TB) string {
	t.Helper()
	base, err := os.UserCacheDir()
	if err != nil { // no home: a per-user directory that survives the run
		base = filepath.Join(os.TempDir(), fmt.Sprintf("varve-cache-%d", os.Getuid()))
	}
	dir := filepath.Join(base, "varve-test")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	return dir
}

// build is the binary that this test process built, for all its tests.
var build struct {
	once sync.Once
	path string
	err  error
}

// Varve returns the path of a varve binary built from this source tree, static
// and as it is shipped, which every user may run; in a test that has the race detector
// in it, varve has it, too. It is built once a process, into a directory that
// [RemoveVarve] deletes.
func Varve(t testing.TB) string {
	t.Helper()
	build.once.Do(func() { build.path, build.err = buildVarve() })
	require.NoError(t, build.err)
	return build.path
}

func buildVarve() (string, error) {
	_, self, _, ok := runtime.Caller(0)
	if !ok {
		return "", fmt.Errorf("build varve: the source tree is not known")
	}
	dir, err := os.MkdirTemp("", "varve-bin-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "varve")
	root := filepath.Dir(filepath.Dir(filepath.Dir(self)))
	flags := []string{path, "-ldflags", "-X main.version=test"}
	if raceEnabled {
		flags = append(flags, "-race")
	}
	cmd := exec.Command(filepath.Join(root, "scripts/build.sh"), flags...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build varve: %w\n%s", err, out)
	}
	return path, nil
}

// RemoveVarve deletes what [Varve] built. A package that uses Varve calls it in
// TestMain after m.Run.
func RemoveVarve() {
	if build.path != "" {
		_ = os.RemoveAll(filepath.Dir(build.path)) // under the temporary directory
	}
}

// Unmount unmounts a disk on which there was a store. A supervisor whose container is over
// and that has told so may be about to end, and its program lies in the store.
func Unmount(t *testing.T, dir string) {
	t.Helper()
	Eventually(t, "the disk is not used any more", func() bool {
		err := unix.Unmount(dir, 0)
		if err != unix.EBUSY {
			require.NoError(t, err)
		}
		return err == nil
	})
}

// Eventually waits until cond is true, and fails the test with what when a
// minute was not enough, which it is also on a machine that is overloaded.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !within(time.Minute, cond) {
		t.Errorf("after a minute still not: %s", what)
	}
}

// within tells whether cond became true before limit had passed.
func within(limit time.Duration, cond func() bool) bool {
	for end := time.Now().Add(limit); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// lock takes an exclusive lock on the file path, made if absent, which other
// test processes wait for, and returns how to give it back.
func lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close() // nothing written
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f.Close, nil
}
