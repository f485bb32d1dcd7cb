package index_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/varvefs/varve/internal/index"
	"github.com/varvefs/varve/unionfs"
	"github.com/varvefs/varve/whiteout"
)

var names = []string{"a", "b", "c", "d", "e"}

// drawPath draws a path of one to three names. Many of them exist.
func drawPath(rt *rapid.T, label string) string {
	return filepath.Join(rapid.SliceOfN(rapid.SampledFrom(names), 1, 3).Draw(rt, label)...)
}

// randomLayers makes layer directories below base, top first: files of all kinds,
// several names of one file, whiteouts of both dialects, opaque directories,
// redirects, metacopies and attributes.
func randomLayers(rt *rapid.T, base string, count int) []string {
	layers := make([]string, count)
	for k := count - 1; k >= 0; k-- {
		layers[k] = filepath.Join(base, fmt.Sprint("layer", k))
		require.NoError(rt, os.Mkdir(layers[k], 0o755))
		for i := range rapid.IntRange(0, 14).Draw(rt, "files") {
			path := filepath.Join(layers[k], drawPath(rt, "path"))
			if os.MkdirAll(filepath.Dir(path), 0o755) == nil { // else a file is in the way
				randomFile(rt, layers[k], path, fmt.Sprintf("layer %d file %d", k, i))
			}
		}
	}
	return layers
}

// randomFile makes one file, unless there is one.
func randomFile(rt *rapid.T, layer, path, content string) {
	dir, name := filepath.Split(path)
	kind := rapid.IntRange(0, 18).Draw(rt, "kind")
	switch kind {
	case 0, 1:
		_ = os.Mkdir(path, 0o750)
	case 2:
		_ = os.Symlink(content, path)
	case 3:
		_ = unix.Mknod(path, unix.S_IFCHR, 0) // a whiteout, overlay
	case 4:
		_ = os.WriteFile(dir+whiteout.Prefix+name, nil, 0o600)
	case 5:
		if os.Mkdir(path, 0o755) == nil {
			_ = unix.Setxattr(path, "user.overlay.opaque", []byte("y"), 0)
		}
	case 6:
		if os.Mkdir(path, 0o755) == nil {
			_ = os.WriteFile(filepath.Join(path, whiteout.OpaqueName), nil, 0o600)
		}
	case 7, 8, 9:
		if os.Mkdir(path, 0o711) == nil {
			_ = unix.Setxattr(path, "user.overlay.redirect", []byte(drawRedirect(rt, kind == 7)), 0)
		}
	case 10:
		other := filepath.Join(layer, drawPath(rt, "other name"))
		if _, err := unix.Lgetxattr(other, "user.overlay.metacopy", nil); err != nil { // its data would be found by either name
			_ = os.Link(other, path)
		}
	case 11:
		_ = unix.Mkfifo(path, 0o622)
	case 13, 14, 15:
		if _, err := os.Lstat(path); err != nil && os.WriteFile(path, make([]byte, 17), 0o622) == nil {
			_ = unix.Setxattr(path, "user.overlay.metacopy", nil, 0)
			if kind != 13 {
				_ = unix.Setxattr(path, "user.overlay.redirect", []byte(drawRedirect(rt, kind == 14)), 0)
			}
		}
	case 12:
		_ = unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(259, 1<<20-1)))
	default:
		if _, err := os.Lstat(path); err != nil {
			require.NoError(rt, os.WriteFile(path, []byte(content), 0o640))
		}
	}
	if value := rapid.IntRange(0, 5).Draw(rt, "attribute"); value < 2 {
		_ = unix.Lsetxattr(path, "user.test", []byte(strings.Repeat("v", value)), 0) // not of every kind
	}
}

// drawRedirect draws another name in the same directory, or a path.
func drawRedirect(rt *rapid.T, sibling bool) string {
	if sibling {
		return rapid.SampledFrom(names).Draw(rt, "sibling")
	}
	return "/" + drawPath(rt, "redirect")
}

func described(layers []string) (list []index.Layer, ids []string) {
	for i, l := range layers {
		list = append(list, index.Layer{Path: l, ID: fmt.Sprint("id ", i)})
		ids = append(ids, list[i].ID)
	}
	return list, ids
}

// build makes and opens an index. The caller closes it.
func build(t require.TestingT, path string, layers []string) *index.Index {
	list, ids := described(layers)
	require.NoError(t, index.Build(path, list))
	x, err := index.Open(path, ids)
	require.NoError(t, err)
	return x
}

// file is what a tree and an index should say alike.
type file struct {
	Stat    unix.Stat_t
	Link    string
	Xattrs  map[string]string
	Content string
	Names   string // of a directory
}

func openTree(t require.TestingT, layers []string) *unionfs.Tree {
	var lowers []unionfs.Lower
	for _, l := range layers {
		lowers = append(lowers, unionfs.Lower{Path: l})
	}
	tree, err := unionfs.OpenTree(lowers)
	require.NoError(t, err)
	return tree
}

// byMerging is what the lazily merged tree shows. Link counts are those of the
// names it shows.
func byMerging(t require.TestingT, tree *unionfs.Tree) map[string]file {
	files, links := map[string]file{}, map[uint64]uint64{}
	require.NoError(t, tree.Walk(func(e unionfs.Entry) error {
		f := file{Stat: e.Stat, Xattrs: map[string]string{}}
		f.Stat.Dev, f.Stat.Atim = 0, unix.Timespec{} // reading a directory changes it
		attrs, err := e.Xattrs()
		require.NoError(t, err)
		for name, value := range attrs {
			f.Xattrs[name] = string(value)
		}
		switch e.Stat.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			f.Link, err = e.Readlink()
			require.NoError(t, err)
		case unix.S_IFREG:
			opened, err := e.Open()
			if errors.Is(err, unix.EIO) {
				f.Content = "nowhere"
				break
			}
			require.NoError(t, err)
			f.Content = readAll(t, opened)
		case unix.S_IFDIR:
			list, err := tree.Names(e.Path)
			require.NoError(t, err)
			f.Names = strings.Join(list, " ")
		}
		links[e.Stat.Ino]++
		files[e.Path] = f
		return nil
	}))
	for path, f := range files {
		if f.Stat.Mode&unix.S_IFMT != unix.S_IFDIR && f.Stat.Nlink > 1 {
			setCount(&f.Stat.Nlink, links[f.Stat.Ino])
			files[path] = f
		}
	}
	return files
}

func readAll(t require.TestingT, f *os.File) string {
	data, err := io.ReadAll(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return string(data)
}

// byIndex is what the index shows.
func byIndex(t require.TestingT, x *index.Index, layers []string) map[string]file {
	files := map[string]file{}
	var walk func(n uint32, path string)
	walk = func(n uint32, path string) {
		files[path] = describe(t, x, n, layers)
		k := 0
		for name, child := range x.List(n) {
			same, again := x.Child(n, k)
			require.Equal(t, string(name), string(same))
			require.Equal(t, child, again)
			walk(child, filepath.Join(path, string(name)))
			k++
		}
		require.Equal(t, x.Count(n), k)
	}
	walk(0, "")
	return files
}

func describe(t require.TestingT, x *index.Index, n uint32, layers []string) file {
	f := file{Xattrs: map[string]string{}, Link: string(x.Readlink(n))}
	x.Stat(n, &f.Stat)
	f.Stat.Atim = unix.Timespec{}
	require.Equal(t, f.Stat.Mode&unix.S_IFMT, x.Kind(n))
	require.Equal(t, f.Stat.Ino, x.Ino(n))
	for name, value := range x.Xattrs(n) {
		f.Xattrs[string(name)] = string(value)
		one, ok := x.Xattr(n, string(name))
		require.True(t, ok)
		require.Equal(t, string(value), string(one))
	}
	layer, path := x.Place(n)
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(filepath.Join(layers[layer], path), &st))
	require.Equal(t, st.Ino, f.Stat.Ino, "the place is another file's")
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		layer, path, ok := x.Data(n)
		require.True(t, ok || x.Elsewhere(n))
		f.Content = "nowhere"
		if ok {
			data, err := os.ReadFile(filepath.Join(layers[layer], path))
			require.NoError(t, err)
			f.Content = string(data)
		}
	}
	var list []string
	for name := range x.List(n) {
		list = append(list, string(name))
	}
	f.Names = strings.Join(list, " ")
	return f
}

// TestIndexIsTheMergedTree: over random layers, the index shows what the lazily
// merged tree shows, and has nothing under names that are absent there.
func TestIndexIsTheMergedTree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		base, err := os.MkdirTemp(t.TempDir(), "")
		require.NoError(rt, err)
		defer os.RemoveAll(base)
		layers := randomLayers(rt, base, 4)
		tree := openTree(rt, layers)
		defer tree.Close()
		want := byMerging(rt, tree)
		x := build(rt, filepath.Join(base, "index"), layers)
		defer x.Close()
		require.Equal(rt, want, byIndex(rt, x, layers))
		compareLookups(rt, tree, x)
		checkNames(rt, x, want)
	})
}

// compareLookups looks every path of up to three names up.
func compareLookups(t require.TestingT, tree *unionfs.Tree, x *index.Index) {
	var look func(path string, dir uint32, there bool, depth int)
	look = func(path string, dir uint32, there bool, depth int) {
		for _, name := range append(names, ".", "..", "", whiteout.Prefix+"a", whiteout.OpaqueName, "aa") {
			p := path + "/" + name
			n, ok := x.Lookup(dir, name)
			ok = ok && there
			if name != "" { // which the tree skips
				e, err := tree.Lookup(p)
				require.Equal(t, err == nil, ok, p)
				require.True(t, !ok || e.Stat.Ino == x.Ino(n), p)
			}
			if depth < 2 && len(name) == 1 && name != "." {
				look(p, n, ok, depth+1)
			}
		}
	}
	look("", 0, true, 0)
}

// checkNames: a file has one number and as many names as it counts, and each of
// them leads to it.
func checkNames(t require.TestingT, x *index.Index, want map[string]file) {
	total, numbers := 0, map[uint64]uint32{}
	for n := range uint32(x.Len()) {
		count := 0
		for dir, name := range x.Names(n) {
			found, ok := x.Lookup(dir, string(name))
			require.True(t, ok)
			require.Equal(t, n, found)
			p := filepath.Join(x.Path(dir), string(name))
			require.Contains(t, want, p)
			require.Equal(t, want[p].Stat.Ino, x.Ino(n))
			count++
		}
		if x.Kind(n) != unix.S_IFDIR {
			var st unix.Stat_t
			x.Stat(n, &st)
			require.EqualValues(t, st.Nlink, count)
			if st.Nlink > 1 { // a redirect to what is not hidden shows a file twice
				require.NotContains(t, numbers, st.Ino, "one file, two numbers")
				numbers[st.Ino] = n
			}
		}
		total += count
	}
	require.Equal(t, len(want)-1, total)
}

// setCount sets a field whose type is another on other kinds of processors.
func setCount[T uint32 | uint64](field *T, n uint64) { *field = T(n) }
