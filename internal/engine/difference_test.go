package engine

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/unionfs"
	"github.com/varvefs/varve/whiteout"
)

// meddler does what a program may do in a directory, at random. What can not be done is
// left undone.
type meddler struct {
	t    *rapid.T
	root string
}

func (m meddler) pick(what string, n int) int { return rapid.IntRange(0, n-1).Draw(m.t, what) }

// path is one of few, so that they meet.
func (m meddler) path(what string) string {
	names := []string{"a", "b", "c", ".wh", strings.Repeat("n", 253)}
	path := m.root
	for range 1 + m.pick(what+" depth", 3) {
		path = filepath.Join(path, names[m.pick(what, len(names))])
	}
	return path
}

func (m meddler) some(steps int) {
	for range m.pick("steps", steps) {
		m.step()
	}
}

func (m meddler) step() {
	path, other := m.path("path"), m.path("other")
	switch m.pick("what", 14) {
	case 0, 1:
		_ = os.Mkdir(path, 0o755)
	case 2, 3:
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		_ = os.WriteFile(path, []byte(strings.Repeat("x", m.pick("size", 3))), 0o644)
	case 4: // in place, of the same size, with the same time
		m.secretly(path)
	case 5:
		_ = os.Remove(path)
	case 6:
		_ = os.RemoveAll(path)
	case 7:
		_ = os.Rename(path, other)
	case 8, 9:
		_ = os.Link(path, other)
	case 10:
		_ = os.Symlink("a", path)
	case 11:
		if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink == 0 {
			_ = os.Chmod(path, fs.FileMode(0o700+m.pick("mode", 2)))
		}
	case 12:
		_ = unix.Lsetxattr(path, "user.colour", []byte{byte('0' + m.pick("value", 2))}, 0)
	case 13: // another file with the same data and time, as `cp -p` and `mv` leave it
		m.replace(path)
	}
}

func (m meddler) secretly(path string) {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return
	}
	if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
		_, _ = f.WriteAt([]byte{byte('x' + m.pick("byte", 2))}, 0)
		_ = f.Close()
	}
	_ = os.Chtimes(path, info.ModTime(), info.ModTime())
}

func (m meddler) replace(path string) {
	info, err := os.Lstat(path)
	raw, readErr := os.ReadFile(path)
	if errors.Join(err, readErr) != nil || !info.Mode().IsRegular() {
		return
	}
	_ = os.Remove(path)
	_ = os.WriteFile(path, raw, info.Mode().Perm())
	_ = os.Chtimes(path, info.ModTime(), info.ModTime())
}

// settleTimes gives every file the same time but for those that have one by now: what is made
// in one step of the clock is told apart by its data.
func settleTimes(root string) {
	long := time.Unix(1e9, 0)
	_ = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			stamp := unix.NsecToTimespec(long.UnixNano())
			_ = at.Utimes(at.CWD, path, stamp, stamp)
		}
		return nil
	})
}

// told is all that a program sees of a file.
func told(st *unix.Stat_t, link string, data []byte, xattrs map[string][]byte) string {
	size := st.Size
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0
	}
	return fmt.Sprintf("%o %d %d %d %v %q %x %q", st.Mode, st.Uid, st.Gid, size, st.Mtim, link, sha256.Sum256(data), xattrs)
}

// shownBy is what a plain directory shows, with the first of its names beside every file of several.
func shownBy(root string) (map[string]string, error) {
	fd, err := at.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	return shown(func(yield func(archive.File) error) error {
		for f, err := range archive.Files(fd, ".", "") {
			if err == nil {
				err = yield(f)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// shownThrough is what an upper shows with the layers below it.
func shownThrough(lowers []unionfs.Lower) (map[string]string, error) {
	tree, err := unionfs.OpenTree(lowers)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	return shown(func(yield func(archive.File) error) error {
		for f, err := range treeFiles(tree, container.IDs{}) {
			if err == nil {
				err = yield(f)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func shown(each func(func(archive.File) error) error) (map[string]string, error) {
	list, first := map[string]string{}, map[[2]uint64]string{}
	return list, each(func(f archive.File) error {
		var data []byte
		if f.Stat.Mode&unix.S_IFMT == unix.S_IFREG && f.Stat.Size > 0 {
			in, err := f.Open()
			if err != nil {
				return err
			}
			data = make([]byte, f.Stat.Size)
			if _, err = in.Read(data); err != nil {
				return err
			}
			_ = in.Close()
		}
		for attr := range f.Xattrs {
			if !strings.HasPrefix(attr, "user.") || whiteout.PrivateAttr(attr) {
				delete(f.Xattrs, attr)
			}
		}
		list[f.Path] = told(&f.Stat, f.Link, data, f.Xattrs)
		if id := [2]uint64{f.Stat.Dev, f.Stat.Ino}; f.Stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			if first[id] == "" {
				first[id] = f.Path
			}
			list[f.Path] += " is " + first[id]
		}
		return nil
	})
}

// compare makes the upper of a copy over a chain.
func compare(lowers []unionfs.Lower, copied, upper string, d archive.Difference) error {
	tree, err := unionfs.OpenTree(lowers)
	if err != nil {
		return err
	}
	defer tree.Close()
	d.Names, d.Below = belowOf(tree)
	return d.WriteUpper(copied, upper)
}

// TestDifference: the upper that is made of a changed copy shows, through the chain, just
// what the copy shows: in both dialects, by links and by copies, over layers that were made
// the same way. And it is made again after it was interrupted anywhere.
func TestDifference(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		require.NoError(r, err)
		defer func() { require.NoError(r, os.RemoveAll(dir)) }()
		dialect := rapid.SampledFrom([]whiteout.Dialect{whiteout.Overlay, whiteout.OCI}).Draw(r, "dialect")
		base := filepath.Join(dir, "base")
		require.NoError(r, os.Mkdir(base, 0o755))
		meddler{r, base}.some(12)
		settleTimes(base)
		lowers := []unionfs.Lower{{Path: base}}
		for layer := range 2 {
			copied, upper := filepath.Join(dir, fmt.Sprint("copy", layer)), filepath.Join(dir, fmt.Sprint("upper", layer))
			require.NoError(r, errors.Join(os.Mkdir(copied, 0o755), os.Mkdir(upper, 0o755)))
			copyChain(r, lowers, copied)
			before, err := shownBy(copied)
			require.NoError(r, err)
			through, err := shownThrough(lowers)
			require.NoError(r, err)
			require.Equal(r, through, before, "the copy is the chain")
			require.NoError(r, compare(lowers, copied, upper, archive.Difference{Whiteout: dialect}))
			list, err := os.ReadDir(upper)
			require.NoError(r, err)
			require.Empty(r, list, "nothing was changed")

			meddler{r, copied}.some(12)
			want, err := shownBy(copied)
			require.NoError(r, err)
			link := rapid.Bool().Draw(r, "link")
			require.NoError(r, compare(lowers, copied, upper, archive.Difference{Whiteout: dialect, Link: link}))
			still, err := shownBy(copied)
			require.NoError(r, err)
			require.Equal(r, want, still, "the copy is left alone")
			lowers = append([]unionfs.Lower{{Path: upper}}, lowers...)
			got, err := shownThrough(lowers)
			require.NoError(r, err)
			require.Equal(r, want, got)
			require.NoError(r, os.RemoveAll(copied))
		}
	})
}

func copyChain(t require.TestingT, lowers []unionfs.Lower, dir string) {
	tree, err := unionfs.OpenTree(lowers)
	require.NoError(t, err)
	defer tree.Close()
	require.NoError(t, archive.CopyTree(treeFiles(tree, container.IDs{}), dir))
}

// TestDifferenceNames: which names come into the upper.
func TestDifferenceNames(t *testing.T) {
	put := func(text string, paths ...string) func(string) error {
		return func(root string) error {
			for _, path := range paths {
				if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
					return err
				}
			}
			return nil
		}
	}
	link := func(from, to string) func(string) error {
		return func(root string) error { return os.Link(filepath.Join(root, from), filepath.Join(root, to)) }
	}
	remove := func(path string) func(string) error {
		return func(root string) error { return os.RemoveAll(filepath.Join(root, path)) }
	}
	mkdir := func(path string) func(string) error {
		return func(root string) error { return os.Mkdir(filepath.Join(root, path), 0o755) }
	}
	attr := func(path, name string) func(string) error {
		return func(root string) error { return unix.Lsetxattr(filepath.Join(root, path), name, []byte("y"), 0) }
	}
	type acts []func(string) error
	pair := acts{put("x", "a"), link("a", "b")}
	cases := map[string]struct {
		base, changes acts
		upper         string // the names, sorted
		linked        bool   // a and b of it are one file
	}{
		"nothing":                        {pair, acts{}, "", false},
		"one of two names removed":       {pair, acts{remove("b")}, "b", false},
		"one more name":                  {acts{put("x", "a", "c")}, acts{link("a", "b")}, "a b", true},
		"names that part":                {pair, acts{remove("b"), put("x", "b")}, "a b", false},
		"names that meet":                {acts{put("x", "a", "b")}, acts{remove("b"), link("a", "b")}, "a b", true},
		"another file of the same kind":  {acts{put("x", "a")}, acts{remove("a"), put("x", "a")}, "", false},
		"other data":                     {acts{put("x", "a")}, acts{put("y", "a")}, "a", false},
		"a directory for a file":         {acts{put("x", "a")}, acts{remove("a"), mkdir("a"), put("x", "a/f")}, "a a/f", false},
		"a file for a directory":         {acts{mkdir("a"), put("x", "a/f")}, acts{remove("a"), put("x", "a")}, "a", false},
		"what looks like a whiteout":     {acts{put("x", "a")}, acts{put("", ".wh.a", ".wh..wh..opq")}, "", false},
		"what looks like an opaque mark": {acts{mkdir("d"), put("x", "d/f")}, acts{attr("d", "user.overlay.opaque")}, "", false},
		"what looks like a metacopy":     {acts{put("x", "a")}, acts{put("y", "a"), attr("a", "user.overlay.metacopy"), attr("a", "user.overlay.redirect")}, "a", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			base, copied, upper := t.TempDir(), t.TempDir(), t.TempDir()
			for _, act := range c.base {
				require.NoError(t, act(base))
			}
			settleTimes(base)
			lowers := []unionfs.Lower{{Path: base}}
			copyChain(t, lowers, copied)
			for _, act := range c.changes {
				require.NoError(t, act(copied))
			}
			settleTimes(copied)
			require.NoError(t, compare(lowers, copied, upper, archive.Difference{Link: true}))
			var names []string
			inodes := map[string]uint64{}
			require.NoError(t, filepath.WalkDir(upper, func(path string, _ fs.DirEntry, err error) error {
				if rel, _ := filepath.Rel(upper, path); rel != "." {
					names = append(names, rel)
					var st unix.Stat_t
					require.NoError(t, unix.Lstat(path, &st))
					inodes[rel] = st.Ino
					list, err := at.Listxattr(at.CWD, path)
					require.NoError(t, err)
					require.NotContains(t, list, "user.overlay.metacopy")
					require.NotContains(t, list, "user.overlay.redirect")
				}
				return err
			}))
			require.Equal(t, c.upper, strings.Join(names, " "))
			if c.upper == "a a/f" {
				fd, err := at.OpenRoot(filepath.Join(upper, "a"))
				require.NoError(t, err)
				opaque, err := whiteout.IsOpaque(fd)
				require.NoError(t, errors.Join(err, unix.Close(fd)))
				require.True(t, opaque)
			}
			if len(names) > 1 {
				require.Equal(t, c.linked, inodes["a"] == inodes["b"])
			}
		})
	}
}
