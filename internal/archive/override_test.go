package archive

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/layout"
)

func TestUnsquash(t *testing.T) {
	stat := func(kind, mode uint32) unix.Stat_t { return unix.Stat_t{Mode: kind | mode, Uid: 0, Gid: 0} }
	for name, c := range map[string]struct {
		before         unix.Stat_t
		value          string
		mode, uid, gid uint32
		rdev           uint64
	}{
		"a file":           {stat(unix.S_IFREG, 0o755), "7:42:04755", unix.S_IFREG | 0o4755, 7, 42, 0},
		"a directory":      {stat(unix.S_IFDIR, 0o700), "1:2:00", unix.S_IFDIR, 1, 2, 0},
		"a device":         {stat(unix.S_IFREG, 0o600), "0:6:0660:block-8-1", unix.S_IFBLK | 0o660, 0, 6, unix.Mkdev(8, 1)},
		"a FIFO":           {stat(unix.S_IFREG, 0o600), "7:8:0444:pipe", unix.S_IFIFO | 0o444, 7, 8, 0},
		"a socket":         {stat(unix.S_IFREG, 0o600), "7:8:0644:socket", unix.S_IFSOCK | 0o644, 7, 8, 0},
		"a link lies":      {stat(unix.S_IFDIR, 0o700), "7:8:0700:symlink", unix.S_IFDIR | 0o700, 7, 8, 0},
		"a symbolic link":  {stat(unix.S_IFLNK, 0o777), "7:7:00", unix.S_IFLNK | 0o777, 0, 0, 0},
		"a directory lies": {stat(unix.S_IFDIR, 0o700), "0:0:0700:char-1-3", unix.S_IFDIR | 0o700, 0, 0, 0},
	} {
		f := File{Path: "x", Stat: c.before, Xattrs: map[string][]byte{layout.OverrideAttr: []byte(c.value)}}
		require.NoError(t, f.Unsquash(), name)
		require.Equal(t, []uint64{uint64(c.mode), uint64(c.uid), uint64(c.gid), c.rdev},
			[]uint64{uint64(f.Stat.Mode), uint64(f.Stat.Uid), uint64(f.Stat.Gid), f.Stat.Rdev}, name)
	}
	link := func(data string) File {
		return File{
			Path: "x", Stat: stat(unix.S_IFREG, 0o600), Xattrs: map[string][]byte{layout.OverrideAttr: []byte("7:8:0600:symlink")},
			Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(data)), nil },
		}
	}
	l := link("some/where")
	require.NoError(t, l.Unsquash())
	require.Equal(t, []any{uint32(unix.S_IFLNK | 0o777), uint32(7), uint32(8), "some/where"}, []any{l.Stat.Mode, l.Stat.Uid, l.Stat.Gid, l.Link})
	for _, bad := range []string{"", "a\x00b", strings.Repeat("x", unix.PathMax)} {
		l = link(bad)
		require.ErrorContains(t, l.Unsquash(), "no target")
	}
	f := File{Path: "x", Stat: stat(unix.S_IFREG, 0), Xattrs: map[string][]byte{layout.OverrideAttr: []byte("nonsense")}}
	require.ErrorContains(t, f.Unsquash(), "nonsense")
	f = File{Stat: stat(unix.S_IFREG, 0o644)}
	require.NoError(t, f.Unsquash())
	require.EqualValues(t, unix.S_IFREG|0o644, f.Stat.Mode)
}
