package unionfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// TestWhatADirectoryHandsDown: that it handed nothing down to the first file is not
// held against what it gets later, nor what it had against what it lost.
func TestWhatADirectoryHandsDown(t *testing.T) {
	testenv.Root(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	mkdir(t, w.lowers[0], "dir")
	w.mount(t, w.options())
	dir := filepath.Join(w.mnt, "dir")
	made := func(name string) (st unix.Stat_t) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o666))
		require.NoError(t, unix.Lstat(path, &st))
		return st
	}
	plain := made("plain")
	require.NoError(t, os.Chown(dir, 0, 4300))
	require.NoError(t, os.Chmod(dir, 0o755|os.ModeSetgid))
	require.EqualValues(t, 4300, made("of the group").Gid)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	info, err := os.Stat(filepath.Join(dir, "sub"))
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeSetgid)
	require.NoError(t, os.Chmod(dir, 0o755))
	require.Equal(t, plain.Gid, made("plain again").Gid)
	require.Equal(t, plain.Mode, made("plain too").Mode)
	// user::rwx, group::rwx, other::--x
	list := []byte{2, 0, 0, 0,
		1, 0, 7, 0, 255, 255, 255, 255,
		4, 0, 7, 0, 255, 255, 255, 255,
		0x20, 0, 1, 0, 255, 255, 255, 255}
	require.NoError(t, unix.Setxattr(dir, aclDefault, list, 0))
	require.EqualValues(t, unix.S_IFREG|0o660, made("listed").Mode)
	require.NoError(t, unix.Removexattr(dir, aclDefault))
	require.Equal(t, plain.Mode, made("plain at last").Mode)
}

// TestCapabilitiesOfANewFile: that it had none when it was made is not held against
// those that it gets, which go with the next write.
func TestCapabilitiesOfANewFile(t *testing.T) {
	testenv.Root(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	w.mount(t, w.options())
	path := filepath.Join(w.mnt, "file")
	caps := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	require.NoError(t, os.WriteFile(path, []byte("x"), 0o755))
	_, err := getxattr(path, "security.capability")
	require.ErrorIs(t, err, unix.ENODATA)
	for range 2 {
		require.NoError(t, unix.Setxattr(path, "security.capability", caps, 0))
		got, err := getxattr(path, "security.capability")
		require.NoError(t, err)
		require.Equal(t, string(caps), got)
		require.NoError(t, os.WriteFile(path, []byte("y"), 0o755))
		_, err = getxattr(path, "security.capability")
		require.ErrorIs(t, err, unix.ENODATA)
	}
}
