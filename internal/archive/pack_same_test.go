package archive

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/whiteout"
)

// belowOf looks up in one directory that stands for the layers below.
func belowOf(root string) func(string) (File, bool, error) {
	return func(path string) (File, bool, error) {
		name := filepath.Join(root, path)
		f := File{Path: path, Open: func() (io.ReadCloser, error) { return os.Open(name) }}
		err := at.Stat(at.CWD, name, &f.Stat)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return f, false, nil
		}
		if err != nil {
			return f, false, err
		}
		f.Link, _ = os.Readlink(name)
		f.Xattrs = map[string][]byte{}
		list, err := at.Listxattr(at.CWD, name)
		for _, attr := range list {
			if f.Xattrs[attr], err = at.Getxattr(at.CWD, name, attr); err != nil {
				return f, false, err
			}
		}
		return f, true, err
	}
}

// same makes the same files in the layers below and in the upper, which the cases of
// the test then change.
func same(t *testing.T, root string) {
	t.Helper()
	for _, dir := range []string{"kept", "dropped", "opaque", "hides", "attrs", "deep", "deep/er"} {
		require.NoError(t, os.Mkdir(filepath.Join(root, dir), 0o755))
		overwrite(t, filepath.Join(root, dir, "file"), "the same")
		overwrite(t, filepath.Join(root, dir, "other"), "not read")
	}
	for _, name := range []string{"data", "mode", "time", "attr", "empty", "linked", "type", "large", "larger"} {
		overwrite(t, filepath.Join(root, name), "first data")
	}
	overwrite(t, filepath.Join(root, "empty"), "")
	require.NoError(t, os.Truncate(filepath.Join(root, "large"), 3*chunkSize))
	require.NoError(t, os.Truncate(filepath.Join(root, "larger"), 3*chunkSize+5))
	require.NoError(t, os.Symlink("here", filepath.Join(root, "link")))
	require.NoError(t, os.Symlink("here", filepath.Join(root, "other link")))
	require.NoError(t, unix.Mkfifo(filepath.Join(root, "pipe"), 0o644))
	require.NoError(t, at.Setxattr(at.CWD, filepath.Join(root, "attr"), "user.a", []byte("1"), 0))
}

// setTimes gives every file below root the same time but one.
func setTimes(t *testing.T, root, other string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		stamp := unix.NsecToTimespec(when.UnixNano())
		if filepath.Base(p) == other {
			stamp.Nsec++
		}
		return errors.Join(err, at.Utimes(at.CWD, p, stamp, stamp))
	}))
}

// Files that the layers below have already are left out of a layer, and nothing
// else is: each name here differs in one thing from the file below it.
func TestPackBelow(t *testing.T) {
	lower, upper := t.TempDir(), t.TempDir()
	same(t, lower)
	same(t, upper)
	in := func(name string) string { return filepath.Join(upper, name) }

	overwrite(t, in("data"), "other data")
	require.NoError(t, os.Chmod(in("mode"), 0o640))
	require.NoError(t, at.Setxattr(at.CWD, in("attr"), "user.a", []byte("2"), 0))
	require.NoError(t, os.Link(in("linked"), in("linked too")))
	require.NoError(t, os.Remove(in("type")))
	require.NoError(t, os.Symlink("first data", in("type")))
	overwrite(t, in("larger"), string(make([]byte, 3*chunkSize+4))+"x")
	require.NoError(t, os.Remove(in("other link")))
	require.NoError(t, os.Symlink("that", in("other link")))
	overwrite(t, in("new"), "first data")
	overwrite(t, in("kept/file"), "in it")
	require.NoError(t, whiteout.OCI.SetOpaque(openDir(t, in("opaque"))))
	require.NoError(t, os.Remove(in("hides/file")))
	require.NoError(t, whiteout.OCI.Hide(openDir(t, in("hides")), "file"))
	require.NoError(t, os.Chmod(in("attrs"), 0o700))
	overwrite(t, in("deep/er/file"), "deep in")
	setTimes(t, lower, "")
	setTimes(t, upper, "time")

	opt := PackOptions{Below: belowOf(lower), Whiteout: whiteout.OCI}
	dir, got, data := pack(t, upper, opt)
	names, _ := headers(t, data)
	require.Equal(t, []string{
		"attr", "attrs/", "data", "deep/", "deep/er/", "deep/er/file", "hides/", "hides/.wh.file", "kept/", "kept/file",
		"larger", "linked", "linked too", "mode", "new", "opaque/", "opaque/.wh..wh..opq", "opaque/file", "opaque/other",
		"other link", "time", "type",
	}, names)
	require.NoFileExists(t, filepath.Join(dir, diffName, "empty"))
	require.NoDirExists(t, filepath.Join(dir, diffName, "dropped"))
	require.NoDirExists(t, filepath.Join(dir, diffName, "deep/er/er"))
	var st unix.Stat_t
	require.NoError(t, at.Stat(at.CWD, filepath.Join(dir, diffName, "deep"), &st))
	require.Equal(t, when.UnixNano(), unix.TimespecToNsec(st.Mtim), "a directory made late has its time")

	_, again, _ := pack(t, upper, opt)
	require.Equal(t, got.DiffID, again.DiffID)
	_, nothing, data := pack(t, lower, opt)
	names, _ = headers(t, data)
	require.Empty(t, names, "all is below")
	require.Zero(t, nothing.Entries)
}

// A file of another owner is another file.
func TestPackBelowOwner(t *testing.T) {
	testenv.Root(t)
	lower, upper := t.TempDir(), t.TempDir()
	for _, root := range []string{lower, upper} {
		overwrite(t, root+"/mine", "data")
		overwrite(t, root+"/theirs", "data")
	}
	require.NoError(t, os.Chown(upper+"/theirs", 7, 7))
	setTimes(t, lower, "")
	setTimes(t, upper, "")
	_, _, data := pack(t, upper, PackOptions{Below: belowOf(lower)})
	names, _ := headers(t, data)
	require.Equal(t, []string{"theirs"}, names)
}

// What goes wrong below is told, and not taken for a difference.
func TestPackBelowFails(t *testing.T) {
	upper := t.TempDir()
	overwrite(t, upper+"/file", "data")
	_, err := PackUpper(upper, stage(t), PackOptions{Below: func(string) (File, bool, error) { return File{}, false, unix.EIO }})
	require.ErrorIs(t, err, unix.EIO)
	require.ErrorContains(t, err, `"file"`)
}
