package at_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// TestOfADescriptor: a file that is open, also as a path only, has attributes, times and
// names by its descriptor.
func TestOfADescriptor(t *testing.T) {
	path := t.TempDir()
	dir, err := at.OpenRoot(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(dir)) }()
	require.NoError(t, os.WriteFile(filepath.Join(path, "file"), []byte("data"), 0o600))
	for name, flags := range map[string]int{"open": unix.O_RDONLY, "path": unix.O_PATH} {
		fd, err := at.Open(dir, "file", flags, 0)
		require.NoError(t, err)
		when := unix.Timespec{Sec: int64(1000 + flags), Nsec: 5}
		require.NoError(t, at.Utimes(fd, "", unix.Timespec{Nsec: unix.UTIME_OMIT}, when))
		var st unix.Stat_t
		require.NoError(t, at.Stat(fd, "", &st))
		require.Equal(t, when, st.Mtim, name)
		require.EqualValues(t, 4, st.Size)
		require.NoError(t, at.LinkFD(fd, dir, name))
		require.ErrorIs(t, at.LinkFD(fd, dir, name), unix.EEXIST)
		require.NoError(t, unix.Close(fd))
	}
	fd, err := at.Tempfile(dir, 0o600)
	require.NoError(t, err)
	require.NoError(t, at.LinkFD(fd, dir, "named"))
	require.FileExists(t, filepath.Join(path, "named"))
	require.NoError(t, unix.Unlink(filepath.Join(path, "named")))
	require.ErrorIs(t, at.LinkFD(fd, dir, "again"), unix.ENOENT, "it is gone")
	require.NoError(t, unix.Close(fd))
	require.ErrorIs(t, at.Utimes(fd, "", unix.Timespec{}, unix.Timespec{}), unix.EBADF)
}
