package at_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// jail is a root directory with links that want to leave it, beside a directory
// that nothing must get into.
func jail(t *testing.T) (root int, dir, outside string) {
	top := t.TempDir()
	dir, outside = filepath.Join(top, "root"), filepath.Join(top, "outside")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	require.NoError(t, os.Mkdir(outside, 0o755))
	for name, target := range map[string]string{
		"absolute": "/a", "up": "../../../../a", "out": outside, "dangling": "/none", "loop": "loop",
		"magic": "/proc/self/root",
	} {
		require.NoError(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	root, err := at.OpenRoot(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Close(root)) })
	return root, dir, outside
}

func nameOf(t *testing.T, fd int) string {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	require.NoError(t, err)
	require.NoError(t, unix.Close(fd))
	return name
}

func TestInRoot(t *testing.T) {
	root, dir, outside := jail(t)
	for name, want := range map[string]string{"": "", "/": "", "..": "", "../../..": "", "a/b": "/a/b", "/a/b/": "/a/b",
		"absolute/b": "/a/b", "up/b": "/a/b", "a/../../../a": "/a"} {
		fd, err := at.InRoot(root, name, unix.O_PATH)
		require.NoError(t, err, name)
		require.Equal(t, dir+want, nameOf(t, fd), name)
	}
	for name, want := range map[string]error{"out": unix.ENOENT, outside: unix.ENOENT, "dangling": unix.ENOENT,
		"loop": unix.ELOOP, "magic/etc": unix.ENOENT} {
		_, err := at.InRoot(root, name, unix.O_PATH)
		require.ErrorIs(t, err, want, name)
	}
}

func TestInRootRefusesMagicLinks(t *testing.T) {
	root, err := at.OpenRoot("/")
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(root)) }()
	for _, name := range []string{"proc/self/root", "proc/self/cwd/x", fmt.Sprintf("proc/self/fd/%d", root)} {
		_, err := at.InRoot(root, name, unix.O_PATH)
		require.ErrorIs(t, err, unix.ELOOP, name)
	}
}

func TestMakeDirs(t *testing.T) {
	root, dir, outside := jail(t)
	// A link that dangles in the root, and does not outside of it, is what a name is that is
	// exchanged when the directory has just been made (CVE-2021-30465).
	for _, name := range []string{"out", "out/x"} {
		_, err := at.MakeDirs(root, name, 0o755)
		require.ErrorIs(t, err, unix.ENOTDIR, name)
	}
	_, err := at.MakeFile(root, "out/x", 0o755)
	require.ErrorIs(t, err, unix.ENOTDIR)
	for name, want := range map[string]string{"/": "", "a": "/a", "x/y/z": "/x/y/z", "up/../../../w": "/w",
		"absolute/new/er": "/a/new/er", strings.TrimPrefix(outside, "/"): outside} {
		fd, err := at.MakeDirs(root, name, 0o750)
		require.NoError(t, err, name)
		require.Equal(t, dir+want, nameOf(t, fd), name)
	}
	info, err := os.Stat(filepath.Join(dir, "a/new"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o750), info.Mode().Perm())
	_, err = at.MakeDirs(root, "dangling", 0o755)
	require.ErrorIs(t, err, unix.ENOTDIR)
	_, err = at.MakeDirs(root, "dangling/x", 0o755)
	require.ErrorIs(t, err, unix.ENOTDIR)
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestMakeFile(t *testing.T) {
	root, dir, _ := jail(t)
	for name, want := range map[string]string{"f": "/f", "n/e/w": "/n/e/w", "absolute/f": "/a/f", "a/b": "/a/b"} {
		for range 2 { // made, then found
			fd, err := at.MakeFile(root, name, 0o640)
			require.NoError(t, err, name)
			require.Equal(t, dir+want, nameOf(t, fd), name)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "n/e/w"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode())
	_, err = at.MakeFile(root, "dangling", 0o644)
	require.ErrorIs(t, err, unix.EEXIST)
}
