package archive

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// when is the time of everything that the tests make.
var when = time.Unix(1_600_000_000, 123_456_789)

// item is one entry of an archive that a test makes.
type item struct {
	tar.Header
	data string
}

func file(name, data string) item {
	return item{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, data}
}

func dir(name string) item {
	return item{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

func symlink(name, target string) item {
	return item{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

func hardlink(name, target string) item {
	return item{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}}
}

func node(name string, kind byte, major, minor int64) item {
	return item{Header: tar.Header{Typeflag: kind, Name: name, Devmajor: major, Devminor: minor, Mode: 0o600}}
}

// build writes the items as a PAX tar.
func build(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, it := range items {
		if it.ModTime.IsZero() && it.Typeflag != tar.TypeXGlobalHeader {
			it.ModTime = when
		}
		if it.Format == tar.FormatUnknown {
			it.Format = tar.FormatPAX
		}
		require.NoError(t, w.WriteHeader(&it.Header), it.Name)
		_, err := w.Write([]byte(it.data))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// stat is the state of one file, for comparisons.
type stat struct {
	Mode     uint32
	UID, GID uint32
	MTime    time.Time
	Size     int64
	Data     string
	Link     string
	Nlink    uint64
	Dev      uint64
	Xattrs   map[string]string
}

func lstat(t testing.TB, path string) stat {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(path, &st), path)
	s := stat{Mode: st.Mode, UID: st.Uid, GID: st.Gid, MTime: time.Unix(st.Mtim.Unix()), Nlink: uint64(st.Nlink)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		s.Data, s.Size = string(data), st.Size
	case unix.S_IFLNK:
		link, err := os.Readlink(path)
		require.NoError(t, err)
		s.Link = link
	case unix.S_IFCHR, unix.S_IFBLK:
		s.Dev = st.Rdev
	}
	list, err := at.Listxattr(at.CWD, path)
	require.NoError(t, err)
	for _, attr := range list {
		value, err := at.Getxattr(at.CWD, path, attr)
		require.NoError(t, err)
		if s.Xattrs == nil {
			s.Xattrs = map[string]string{}
		}
		s.Xattrs[attr] = string(value)
	}
	return s
}

// tree is the state of all files below root.
func tree(t testing.TB, root string) map[string]stat {
	t.Helper()
	list := map[string]stat{}
	require.NoError(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		require.NoError(t, err)
		rel, err := filepath.Rel(root, path)
		require.NoError(t, err)
		s := lstat(t, path)
		if s.Mode&unix.S_IFMT == unix.S_IFDIR {
			s.Nlink = 0 // ext4 counts subdirectories, others do not
		}
		list[rel] = s
		return nil
	}))
	return list
}

// openFDs counts the descriptors of this process.
func openFDs(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}

// requireRoot skips where owners and devices can not be made.
func requireRoot(t testing.TB) {
	t.Helper()
	if newOwners().squash {
		t.Skip("owners and devices can be made by root only")
	}
}

// overwrite gives path new content.
func overwrite(t testing.TB, path, data string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(data), 0o600))
}
