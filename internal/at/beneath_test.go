package at

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestBeneath: no name leads out of the directory, or through a symbolic link in it, by
// openat2(2) and without it.
func TestBeneath(t *testing.T) {
	top := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(top, "dir/a/b"), 0o755))
	for _, name := range []string{"secret", "dir/file", "dir/a/b/file"} {
		require.NoError(t, os.WriteFile(filepath.Join(top, name), []byte(name), 0o600))
	}
	for name, target := range map[string]string{"up": "..", "out": top, "inside": "a", "leaf": "file", "magic": "/proc/self/cwd"} {
		require.NoError(t, os.Symlink(target, filepath.Join(top, "dir", name)))
	}
	dir, err := OpenRoot(filepath.Join(top, "dir"))
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(dir)) }()
	for way, open := range map[string]func(int, string, int) (int, error){"Beneath": Beneath, "openBeneath": openBeneath, "walkBeneath": walkBeneath} {
		for _, name := range []string{"file", "a/b/file", "./a//b/file"} {
			fd, err := open(dir, name, unix.O_RDONLY)
			require.NoError(t, err, "%s %s", way, name)
			require.NoError(t, unix.Close(fd))
		}
		for _, name := range []string{"..", "../secret", "a/../../secret", "a/b/../../../secret"} {
			_, err := open(dir, name, unix.O_RDONLY)
			require.ErrorIs(t, err, unix.EXDEV, "%s %s", way, name)
		}
		for _, name := range []string{"leaf", "up", "out/secret", "up/secret", "inside/b", "magic/dir"} {
			_, err := open(dir, name, unix.O_RDONLY)
			require.Regexp(t, "too many levels of symbolic links|not a directory", err, "%s %s", way, name)
		}
	}
	for _, open := range []func(int, string, int) (int, error){Beneath, openBeneath} {
		_, err := open(dir, filepath.Join(top, "secret"), unix.O_RDONLY)
		require.ErrorIs(t, err, unix.EXDEV)
	}
	for _, name := range []string{"up", "out", "inside", "magic"} {
		_, err = OpenDir(dir, name)
		require.ErrorIs(t, err, unix.ENOTDIR, name)
		_, err = Open(dir, name, unix.O_RDONLY, 0)
		require.ErrorIs(t, err, unix.ELOOP, name)
	}
	_, err = Beneath(dir, strings.Repeat("a/../", 1000)+"../secret", unix.O_RDONLY)
	require.ErrorIs(t, err, unix.EXDEV, "walked in pieces")
}
