package at_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

func TestSmallFiles(t *testing.T) {
	path := t.TempDir()
	dir, err := at.OpenRoot(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(dir)) }()
	require.NoError(t, at.WriteFile(dir, "file", []byte("data")))
	require.ErrorIs(t, at.WriteFile(dir, "file", nil), unix.EEXIST)
	require.NoError(t, at.WriteFile(dir, "empty", nil))
	for name, want := range map[string]string{"file": "data", "empty": ""} {
		data, err := at.ReadFile(dir, name, 4)
		require.NoError(t, err)
		require.Equal(t, want, string(data))
	}
	_, err = at.ReadFile(dir, "file", 3)
	require.ErrorIs(t, err, unix.EFBIG)
	_, err = at.ReadFile(dir, ".", 3)
	require.ErrorIs(t, err, unix.EINVAL)
	require.NoError(t, unix.Mkfifo(filepath.Join(path, "fifo"), 0o600))
	_, err = at.ReadFile(dir, "fifo", 3)
	require.ErrorIs(t, err, unix.EINVAL)
	require.NoError(t, os.Symlink("file", filepath.Join(path, "link")))
	_, err = at.ReadFile(dir, "link", 3)
	require.ErrorIs(t, err, unix.ELOOP)

	fd, err := at.Open(dir, "file", unix.O_PATH, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Unlink(filepath.Join(path, "file")))
	data, err := at.ReadFile(fd, "", 4)
	require.NoError(t, err)
	require.Equal(t, "data", string(data))
	require.NoError(t, unix.Close(fd))
}
