package archive

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/whiteout"
)

// walkTree yields the files below root as a view would.
func walkTree(t testing.TB, root string) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		require.NoError(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			require.NoError(t, err)
			f := File{Path: strings.TrimPrefix(strings.TrimPrefix(path, root), "/"), Xattrs: map[string][]byte{}}
			require.NoError(t, unix.Lstat(path, &f.Stat))
			s := lstat(t, path)
			f.Link = s.Link
			for attr, value := range s.Xattrs {
				f.Xattrs[attr] = []byte(value)
			}
			f.Open = func() (io.ReadCloser, error) { return os.Open(path) }
			if !yield(f, nil) {
				return fs.SkipAll
			}
			return nil
		}))
	}
}

func TestWriteTreeRoundTrip(t *testing.T) {
	root := upper(t, whiteout.OCI)
	for _, mark := range []string{"/.wh.gone", "/etc/deep/.wh.hosts", "/opaque/.wh..wh..opq"} {
		require.NoError(t, os.Remove(root+mark)) // a view has no whiteouts
	}
	for _, dir := range []string{"", "/etc/deep", "/opaque"} {
		require.NoError(t, at.Utimes(at.CWD, root+dir, unix.Timespec{}, unix.NsecToTimespec(when.UnixNano())))
	}
	var b bytes.Buffer
	require.NoError(t, WriteTree(&b, walkTree(t, root)))
	names, list := headers(t, b.Bytes())
	require.Equal(t, "./", names[0])
	require.Equal(t, "etc/deep/link", list["etc/passwd"].Linkname)
	dir, got := unpack(t, b.Bytes())
	requireSameTar(t, dir, got, b.Bytes())
	require.Equal(t, tree(t, root), tree(t, dir+"/diff"))
}

func TestWriteTreeLeavesOut(t *testing.T) {
	one := File{Path: "f", Stat: unix.Stat_t{Mode: unix.S_IFREG | 0o4755, Uid: 5, Nlink: 1}, Xattrs: map[string][]byte{
		layout.OverrideAttr: []byte("1"), "trusted.overlay.opaque": []byte("y"), "security.selinux": []byte("z"), "security.capability": []byte("c"),
	}}
	socket := File{Path: "s", Stat: unix.Stat_t{Mode: unix.S_IFSOCK | 0o600}}
	var b bytes.Buffer
	require.NoError(t, WriteTree(&b, func(yield func(File, error) bool) { _ = yield(one, nil) && yield(socket, nil) }))
	names, list := headers(t, b.Bytes())
	require.Equal(t, []string{"f"}, names)
	require.Equal(t, map[string]string{"SCHILY.xattr.security.capability": "c"}, list["f"].PAXRecords)
	require.EqualValues(t, 0o4755, list["f"].Mode)
	require.Equal(t, 5, list["f"].Uid)
}

func TestWriteTreeTellsErrors(t *testing.T) {
	give := func(data string, size int64) iter.Seq2[File, error] {
		return func(yield func(File, error) bool) {
			yield(File{Path: "f", Stat: unix.Stat_t{Mode: unix.S_IFREG, Size: size, Nlink: 1},
				Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(data)), nil }}, nil)
		}
	}
	require.ErrorContains(t, WriteTree(io.Discard, give("short", 10)), `"/f": it shrank from 10 to 5 bytes`)
	var b bytes.Buffer
	require.NoError(t, WriteTree(&b, give("longer than it was", 6)))
	require.Equal(t, "longer", string(contents(t, b.Bytes())["f"]))
	broken := errors.New("broken view")
	require.ErrorIs(t, WriteTree(io.Discard, func(yield func(File, error) bool) { yield(File{}, broken) }), broken)
	require.Error(t, WriteTree(failing{}, give("x", 1)))
}
