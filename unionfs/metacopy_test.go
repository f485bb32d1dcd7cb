package unionfs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/whiteout"
)

// kernelMount mounts what w describes with the kernel's overlayfs.
func (w *world) kernelMount(t *testing.T, lowers ...string) {
	t.Helper()
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=on,metacopy=on,index=on",
		strings.Join(lowers, ":"), w.upper, w.work)
	var err error
	for range 500 { // a mount namespace that was made meanwhile has the one before, until it ends
		if err = unix.Mount("overlay", w.mnt, "overlay", 0, data); err != unix.EBUSY {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Unmount(w.mnt, unix.MNT_DETACH) }) // after a failure
}

// metacopies lists the files below dir that have only their metadata there.
func metacopies(t require.TestingT, dir string) (list []string) {
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		require.NoError(t, err)
		defer f.Close()
		meta, err := whiteout.IsMetacopy(int(f.Fd()))
		require.NoError(t, err)
		if meta {
			list = append(list, strings.TrimPrefix(path, dir+"/"))
		}
		return nil
	})
	require.NoError(t, err)
	return list
}

// blocksOf tells how much space each regular file below dir takes.
func blocksOf(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	blocks := map[string]int64{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var st unix.Stat_t
			require.NoError(t, unix.Lstat(path, &st))
			blocks[path] = st.Blocks
		}
		return err
	})
	require.NoError(t, err)
	return blocks
}

// kernelMetacopies has the kernel make an upper of metacopies over two layers: also
// renamed ones, in renamed directories, and one over another. It returns the layers
// below w.upper, top first, and what the kernel shows.
func kernelMetacopies(t *testing.T, w *world) (layers []string, want map[string]string, blocks map[string]int64) {
	t.Helper()
	for i, l := range w.lowers {
		for _, name := range []string{"plain", "here", "there", "across", "twice", "again", "written", "cut", "linked", "dir/in", "dir/sub/in", "kept", fmt.Sprint("only", i)} {
			mkdir(t, l, filepath.Dir(name))
			data := strings.Repeat(fmt.Sprintf("%s of %d\n", name, i), 3000)
			require.NoError(t, os.WriteFile(filepath.Join(l, name), []byte(data), 0o644))
		}
	}
	in := func(name string) string { return filepath.Join(w.mnt, name) }
	chmod := func(mode os.FileMode, names ...string) {
		for _, name := range names {
			require.NoError(t, os.Chmod(in(name), mode), name)
		}
	}
	rename := func(from, to string) { require.NoError(t, os.Rename(in(from), in(to))) }
	top := w.upper
	w.upper = filepath.Join(filepath.Dir(top), "middle")
	require.NoError(t, os.Mkdir(w.upper, 0o755))
	w.kernelMount(t, w.lowers...)
	chmod(0o600, "plain", "twice", "again", "there", "only1", "dir/sub/in", "linked")
	rename("twice", "dir/twice")
	rename("again", "again2")
	require.NoError(t, os.Link(in("linked"), in("dir/linked")))
	require.NoError(t, unix.Unmount(w.mnt, 0))
	layers = append([]string{w.upper}, w.lowers...)
	w.upper = top
	require.NoError(t, os.RemoveAll(filepath.Join(w.work, "index"))) // of the other upper
	w.kernelMount(t, layers...)
	chmod(0o640, "plain", "here", "again2", "only0", "written", "cut")
	require.NoError(t, unix.Setxattr(in("here"), "user.test", []byte("x"), 0))
	require.NoError(t, os.Chown(in("kept"), 77, 78))
	rename("here", "here2")            // a relative redirect
	rename("across", "dir/sub/across") // an absolute one
	rename("dir/twice", "twice2")
	rename("again2", "again3")
	rename("dir", "moved")
	chmod(0o604, "moved/in", "moved/sub/in")
	f, err := os.OpenFile(in("written"), os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	_, err = f.WriteString("more")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Truncate(in("cut"), 5))
	want, blocks = treeOf(t, w.mnt), blocksOf(t, w.mnt)
	require.NoError(t, unix.Unmount(w.mnt, 0))
	require.Contains(t, metacopies(t, w.upper), "moved/sub/across", "the kernel made no metacopies")
	require.NotContains(t, metacopies(t, w.upper), "written")
	return layers, want, blocks
}

// lowersOf are layers for Options.
func lowersOf(paths ...string) (list []Lower) {
	for _, path := range paths {
		list = append(list, Lower{Path: path})
	}
	return list
}

// TestKernelsMetacopies: files of which the kernel brought up only the metadata have
// their data in a view, whether they are in the upper, in a layer or in an index.
func TestKernelsMetacopies(t *testing.T) {
	testenv.Root(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 2)
	layers, want, blocks := kernelMetacopies(t, w)
	check := func(what string, opt Options) {
		w.mount(t, opt)
		require.Equal(t, want, treeOf(t, w.mnt), what)
		require.Equal(t, blocks, blocksOf(t, w.mnt), what)
		w.unmount(t)
	}
	opt := w.options()
	opt.Lowers = lowersOf(layers...)
	check("upper", opt)

	all := Options{Lowers: lowersOf(append([]string{w.upper}, layers...)...)}
	check("layers", all)
	all.IO = Passthrough
	check("layers, passthrough", all)
	all.IO = Cached
	indexLayers(t, &all, filepath.Join(filepath.Dir(w.mnt), "index"))
	check("index", all)

	tree, err := OpenTree(all.Lowers)
	require.NoError(t, err)
	defer tree.Close()
	walked := walked(t, tree)
	require.Equal(t, "file 100640 "+strings.Repeat("here of 0\n", 3000), walked["here2"])
	require.Equal(t, "file 100600 "+strings.Repeat("twice of 0\n", 3000), walked["twice2"])
	require.Equal(t, "file 100604 "+strings.Repeat("dir/sub/in of 0\n", 3000), walked["moved/sub/in"])
}

// TestMetacopyIsCompleted: what is done to the data of a file that the kernel brought
// up without it is done to its own data, and the kernel sees that, too.
func TestMetacopyIsCompleted(t *testing.T) {
	testenv.Root(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 2)
	layers, want, _ := kernelMetacopies(t, w)
	in := func(name string) string { return filepath.Join(w.mnt, name) }
	opt := w.options()
	opt.Lowers = lowersOf(layers...)
	plain := filepath.Join(filepath.Dir(w.mnt), "plain")
	w.mount(t, opt)
	copyTree(t, w.mnt, plain)
	for _, step := range []struct {
		name string
		do   func(path string) error
	}{
		{"plain", func(p string) error { return appendTo(p, "more") }},
		{"here2", func(p string) error { return os.Truncate(p, 7) }},
		{"again3", func(p string) error { return os.Truncate(p, 0) }},
		{"twice2", func(p string) error { return os.Rename(p, p+".new") }},
		{"moved/in", func(p string) error { return os.Link(p, p+".new") }},
		{"moved/linked", func(p string) error { return appendTo(p, "by one name") }},
		{"moved/sub/across", func(p string) error { return os.Chmod(p, 0o400) }},
		{"only0", func(p string) error {
			f, err := os.OpenFile(p, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := os.Remove(p); err != nil {
				return err
			}
			if _, err := f.WriteAt([]byte("gone"), 5); err != nil {
				return err
			}
			data, err := io.ReadAll(f)
			if err == nil && (!strings.HasPrefix(string(data), "only0gone0\nonly0 of 0\n") || len(data) != 3000*len("only0 of 0\n")) {
				err = fmt.Errorf("%d bytes, %q", len(data), data[:30])
			}
			return err
		}},
	} {
		var before, after unix.Stat_t
		require.NoError(t, unix.Lstat(in(step.name), &before))
		if step.name == "twice2" || step.name == "moved/in" {
			require.NoError(t, step.do(in(step.name)))
			require.NoError(t, unix.Lstat(in(step.name+".new"), &after))
			require.Equal(t, before.Mtim, after.Mtim, step.name)
			require.Equal(t, before.Ino, after.Ino, step.name)
		} else {
			require.NoError(t, step.do(in(step.name)), step.name)
		}
		require.NoError(t, step.do(filepath.Join(plain, step.name)), step.name)
	}
	now := treeOf(t, w.mnt)
	require.NotEqual(t, want, now)
	for name, line := range treeOf(t, plain) {
		require.Equal(t, dataOf(line), dataOf(now[name]), name)
	}
	w.unmount(t)
	left := metacopies(t, w.upper)
	require.Contains(t, left, "moved/sub/across")
	for _, name := range []string{"plain", "here2", "again3", "twice2.new", "moved/in", "moved/in.new", "moved/linked"} {
		require.NotContains(t, left, name)
	}
	w.mount(t, opt)
	require.Equal(t, now, treeOf(t, w.mnt))
	w.unmount(t)
	w.kernelMount(t, layers...)
	require.Equal(t, now, treeOf(t, w.mnt))
	require.NoError(t, unix.Unmount(w.mnt, 0))
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

// dataOf is the part of a line of treeOf that tells the data.
func dataOf(line string) string {
	_, data, _ := strings.Cut(line, " data ")
	data, _, _ = strings.Cut(data, " ")
	return data
}

// TestMetacopyWithoutData: a file whose data no layer has can be looked at, and
// reading it fails; it never reads as zeros.
func TestMetacopyWithoutData(t *testing.T) {
	testenv.CheckLeaks(t)
	for _, c := range []struct {
		what, redirect string
		fill           func(t *testing.T, low string)
	}{
		{"nothing below", "", func(*testing.T, string) {}},
		{"a directory below", "", func(t *testing.T, low string) { mkdir(t, low, "file") }},
		{"a link below", "", func(t *testing.T, low string) { require.NoError(t, os.Symlink("other", filepath.Join(low, "file"))) }},
		{"less data below", "", func(t *testing.T, low string) {
			require.NoError(t, os.WriteFile(filepath.Join(low, "file"), []byte("short"), 0o644))
		}},
		{"no such path", "/no/such", func(*testing.T, string) {}},
		{"out of the layer", "/../file", func(*testing.T, string) {}},
		{"no name", "..", func(*testing.T, string) {}},
		{"a path as name", "dir/file", func(t *testing.T, low string) {
			mkdir(t, low, "dir")
			require.NoError(t, os.WriteFile(filepath.Join(low, "dir/file"), make([]byte, 100000), 0o644))
		}},
		{"hidden", "", func(t *testing.T, low string) {
			require.NoError(t, os.WriteFile(filepath.Join(low, "file"), make([]byte, 100000), 0o644))
			require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(low), "low0/.wh.file"), nil, 0o644))
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t, 2)
			for _, dir := range []string{w.upper, w.lowers[0]} {
				path := filepath.Join(dir, "file")
				require.NoError(t, os.WriteFile(path, nil, 0o640))
				require.NoError(t, os.Truncate(path, 100000))
				require.NoError(t, unix.Setxattr(path, "user.overlay.metacopy", nil, 0))
				if c.redirect != "" {
					require.NoError(t, unix.Setxattr(path, "user.overlay.redirect", []byte(c.redirect), 0))
				}
			}
			w.lowers[0] = w.rename(t, w.lowers[0], "low0")
			c.fill(t, w.lowers[1])
			upper, layers, indexed := w.options(), Options{Lowers: lowersOf(w.lowers...)}, Options{Lowers: lowersOf(w.lowers...)}
			indexLayers(t, &indexed, filepath.Join(filepath.Dir(w.mnt), "index"))
			for _, opt := range []Options{layers, indexed, upper} {
				w.mount(t, opt)
				path := filepath.Join(w.mnt, "file")
				info, err := os.Stat(path)
				require.NoError(t, err)
				require.EqualValues(t, 100000, info.Size())
				require.Equal(t, os.FileMode(0o640), info.Mode())
				_, err = os.ReadFile(path)
				require.ErrorIs(t, err, unix.EIO)
				if opt.Upper != "" {
					require.ErrorIs(t, appendTo(path, "x"), unix.EIO)
					require.NoError(t, os.WriteFile(path, []byte("new"), 0o640), "what is to be empty needs no data")
				}
				w.unmount(t)
			}
			require.Empty(t, metacopies(t, w.upper))
		})
	}
}

// rename gives a layer another name beside the mount point.
func (w *world) rename(t *testing.T, dir, name string) string {
	t.Helper()
	to := filepath.Join(filepath.Dir(dir), name)
	require.NoError(t, os.Rename(dir, to))
	return to
}

// TestMetadataComesUpAlone: a change of metadata of a big file of a layer copies none
// of its data, which takes no space in the upper, and is read all the same.
func TestMetadataComesUpAlone(t *testing.T) {
	testenv.CheckLeaks(t)
	for _, mode := range append([]Mode{Cached}, otherModes...) {
		t.Run(mode.String(), func(t *testing.T) {
			needsMode(t, mode)
			w := newWorld(t, 1)
			data := []byte(strings.Repeat("0123456789abcde\n", 1<<16))
			changes := map[string]func(path string) error{
				"chmod":    func(p string) error { return os.Chmod(p, 0o600) },
				"utimes":   func(p string) error { return os.Chtimes(p, time.Unix(5, 6), time.Unix(7, 8)) },
				"setxattr": func(p string) error { return unix.Setxattr(p, "user.test", []byte("x"), 0) },
			}
			if testenv.IsRoot() {
				changes["chown"] = func(p string) error { return os.Chown(p, 12, 34) }
			}
			for name := range changes {
				require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], name), data, 0o644))
			}
			low := filepath.Join(w.lowers[0], "chmod")
			require.NoError(t, os.Truncate(low, 100<<20)) // and mostly a hole
			opt := w.options()
			opt.IO, opt.Whiteout = mode, whiteout.Overlay
			w.mount(t, opt)
			for name, change := range changes {
				path := filepath.Join(w.mnt, name)
				var before, after, upper, lower unix.Stat_t
				require.NoError(t, unix.Stat(path, &before))
				require.NoError(t, change(path), name)
				require.NoError(t, unix.Stat(path, &after))
				require.NoError(t, unix.Stat(filepath.Join(w.upper, name), &upper), name)
				require.NoError(t, unix.Stat(filepath.Join(w.lowers[0], name), &lower), name)
				require.Equal(t, before.Size, upper.Size, name)
				require.LessOrEqual(t, upper.Blocks*512, int64(4096), "%s copied data", name) // attributes may take a block
				require.Equal(t, lower.Blocks, after.Blocks, name)
				require.Equal(t, before.Ino, after.Ino, name)
				have, err := os.ReadFile(path)
				require.NoError(t, err)
				require.True(t, bytes.HasPrefix(have, data) && len(have) == int(lower.Size), "data of %s", name)
			}
			require.Zero(t, w.server.fs.copyUps.bytes.Load())
			require.Len(t, metacopies(t, w.upper), len(changes))
		})
	}
}

// TestOpenMetacopy: descriptors from before the metadata came up, from before the
// data did and from after see the same file, also when it has no name any more.
func TestOpenMetacopy(t *testing.T) {
	testenv.CheckLeaks(t)
	for _, mode := range append([]Mode{Cached}, otherModes...) {
		for _, unlink := range []bool{false, true} {
			t.Run(fmt.Sprint(mode, unlink), func(t *testing.T) {
				needsMode(t, mode)
				w := newWorld(t, 1)
				data := strings.Repeat("0123456789abcde\n", 1<<14)
				require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], "file"), []byte(data), 0o644))
				opt := w.options()
				opt.IO, opt.Whiteout = mode, whiteout.Overlay
				w.mount(t, opt)
				path := filepath.Join(w.mnt, "file")
				open := func(flags int) *os.File {
					f, err := os.OpenFile(path, flags, 0)
					require.NoError(t, err)
					t.Cleanup(func() { require.NoError(t, f.Close()) })
					return f
				}
				files := []*os.File{open(os.O_RDONLY)}
				require.NoError(t, os.Chmod(path, 0o666))
				files = append(files, open(os.O_RDONLY))
				if mode != Passthrough { // there an open for writing brings the data up
					files = append(files, open(os.O_RDWR))
					require.Equal(t, []string{"file"}, metacopies(t, w.upper))
				}
				writer := open(os.O_RDWR)
				files = append(files, writer)
				if unlink {
					require.NoError(t, os.Remove(path))
				}
				require.NoError(t, writer.Chmod(0o600))
				want := []byte(data)
				read := func() {
					for k, f := range files {
						have := make([]byte, len(want)+10)
						n, err := f.ReadAt(have, 0)
						require.ErrorIs(t, err, io.EOF)
						require.True(t, string(want) == string(have[:n]), "descriptor %d", k)
					}
				}
				read()
				for _, off := range []int64{70000, 0, int64(len(data))} {
					_, err := writer.WriteAt([]byte("written"), off)
					require.NoError(t, err)
					want = append(want[:off], append([]byte("written"), want[min(off+7, int64(len(want))):]...)...)
					read()
				}
				if !unlink {
					files = append(files, open(os.O_RDONLY))
					read()
				}
				require.NoError(t, writer.Sync()) // io=writeback
				require.Empty(t, metacopies(t, w.upper))
				info, err := writer.Stat()
				require.NoError(t, err)
				require.Equal(t, os.FileMode(0o600), info.Mode())
			})
		}
	}
}

// TestKernelReadsOurMetacopies: overlayfs mounts an upper with them and shows the
// same tree, goes on with it, and we with what it left.
func TestKernelReadsOurMetacopies(t *testing.T) {
	testenv.Root(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 2)
	names := []string{"a", "b", "c", "d", "dir/a", "dir/sub/b", "two/deep/c", "two/deep/d", "renamed"}
	for i, l := range w.lowers {
		for _, name := range append(names, fmt.Sprintf("two/only%d", i)) {
			mkdir(t, l, filepath.Dir(name))
			data := strings.Repeat(fmt.Sprintf("%s of %d\n", name, i), 3000)
			require.NoError(t, os.WriteFile(filepath.Join(l, name), []byte(data), 0o644))
		}
	}
	before := hashTrees(t, w.lowers)
	in := func(name string) string { return filepath.Join(w.mnt, name) }
	opt := w.options()
	opt.Whiteout = whiteout.Overlay
	w.mount(t, opt)
	for _, name := range append(names, "two/only0", "two/only1") {
		require.NoError(t, os.Chmod(in(name), 0o640), name)
		require.NoError(t, unix.Setxattr(in(name), "user.test", []byte("x"), 0))
	}
	require.NoError(t, os.Chown(in("b"), 5, 6))
	require.NoError(t, os.Rename(in("two"), in("dir/moved"))) // a redirect
	require.NoError(t, os.Rename(in("renamed"), in("renamed2")))
	require.NoError(t, appendTo(in("c"), "more"))
	want, blocks := treeOf(t, w.mnt), blocksOf(t, w.mnt)
	w.unmount(t)
	require.Equal(t, []string{"a", "b", "d", "dir/a", "dir/moved/deep/c", "dir/moved/deep/d", "dir/moved/only0", "dir/moved/only1", "dir/sub/b"},
		metacopies(t, w.upper))
	w.mount(t, opt)
	require.Equal(t, want, treeOf(t, w.mnt))
	require.Equal(t, blocks, blocksOf(t, w.mnt))
	w.unmount(t)

	w.kernelMount(t, w.lowers...)
	require.Equal(t, want, treeOf(t, w.mnt))
	require.NoError(t, appendTo(in("a"), "by the kernel"))
	require.NoError(t, os.Rename(in("b"), in("dir/b2")))
	require.NoError(t, os.Rename(in("dir/moved/deep/d"), in("d2")))
	require.NoError(t, os.Link(in("dir/a"), in("linked")))
	want = treeOf(t, w.mnt)
	require.NoError(t, unix.Unmount(w.mnt, 0))
	require.Contains(t, metacopies(t, w.upper), "dir/b2")

	w.mount(t, opt)
	require.Equal(t, want, treeOf(t, w.mnt))
	require.NoError(t, os.Rename(in("dir/b2"), in("b3")))
	require.NoError(t, appendTo(in("linked"), "by us"))
	want = treeOf(t, w.mnt)
	w.unmount(t)
	w.kernelMount(t, w.lowers...)
	require.Equal(t, want, treeOf(t, w.mnt))
	require.NoError(t, unix.Unmount(w.mnt, 0))
	require.Equal(t, before, hashTrees(t, w.lowers))
}

// TestNoMetacopy: what asks for whole files, or can not have others, gets them.
func TestNoMetacopy(t *testing.T) {
	testenv.CheckLeaks(t)
	for name, change := range map[string]func(o *Options){
		"NoMetacopy": func(o *Options) { o.NoMetacopy = true },
		"NoXattrs":   func(o *Options) { o.NoXattrs = true },
		"OCI":        func(o *Options) { o.Whiteout = whiteout.OCI },
		"Override":   func(o *Options) { o.Override = OverrideUser },
		"Live":       func(o *Options) { o.Lowers[0].Live = true },
		"small":      func(*Options) {},
		"linked":     func(*Options) {},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			size := minMetacopy
			if name == "small" {
				size--
			}
			low := filepath.Join(w.lowers[0], "file")
			require.NoError(t, os.WriteFile(low, bytes.Repeat([]byte("x"), size), 0o644))
			if name == "linked" {
				require.NoError(t, os.Link(low, low+"2"))
			}
			opt := w.options()
			opt.Whiteout = whiteout.Overlay
			change(&opt)
			w.mount(t, opt)
			require.NoError(t, os.Chmod(filepath.Join(w.mnt, "file"), 0o600))
			require.Empty(t, metacopies(t, w.upper))
			data, err := os.ReadFile(filepath.Join(w.upper, "file"))
			require.NoError(t, err)
			require.Equal(t, strings.Repeat("x", size), string(data))
		})
	}
}

// TestMetacopyParallel: many at once change metadata and data of the same files, read,
// rename and link them. Each append is there once, behind the data of the layer.
func TestMetacopyParallel(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	data := strings.Repeat("0123456789abcde\n", 1<<12)
	const files = 12
	for k := range files {
		require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], fmt.Sprint(k)), []byte(data), 0o644))
	}
	opt := w.options()
	opt.Whiteout, opt.Volatile = whiteout.Overlay, true
	w.mount(t, opt)
	var work sync.WaitGroup
	for k := range files {
		path := filepath.Join(w.mnt, fmt.Sprint(k))
		for range 3 {
			work.Go(func() {
				require.NoError(t, os.Chmod(path, 0o600))
				require.NoError(t, unix.Setxattr(path, "user.test", []byte("x"), 0))
			})
			work.Go(func() { require.NoError(t, appendTo(path, "more\n")) })
			work.Go(func() {
				have, err := os.ReadFile(path)
				require.NoError(t, err)
				require.True(t, strings.HasPrefix(string(have), data), "data of %s", path)
			})
		}
		work.Go(func() { require.NoError(t, os.Link(path, path+".linked")) })
	}
	work.Wait()
	check := func() {
		for k := range files {
			for _, name := range []string{"", ".linked"} {
				path := filepath.Join(w.mnt, fmt.Sprint(k)+name)
				have, err := os.ReadFile(path)
				require.NoError(t, err)
				require.True(t, string(have) == data+strings.Repeat("more\n", 3), "data of %s", path)
				var st unix.Stat_t
				require.NoError(t, unix.Stat(path, &st))
				require.EqualValues(t, unix.S_IFREG|0o600, st.Mode)
				_, err = unix.Getxattr(path, "user.test", make([]byte, 9))
				require.NoError(t, err)
			}
		}
	}
	check()
	w.unmount(t)
	require.Empty(t, metacopies(t, w.upper))
	w.mount(t, opt)
	check()
}

// TestTimesWhileCompleting: a time that is set while the data of a file comes up is not
// lost, though bringing it up puts back the times from before. Most operations wait for
// each other in the kernel; an open that brings data up does not.
func TestTimesWhileCompleting(t *testing.T) {
	needsMode(t, Passthrough)
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	const files = 40
	for k := range files {
		require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], fmt.Sprint(k)), make([]byte, 300<<10), 0o644))
	}
	opt := w.options()
	opt.Whiteout, opt.Volatile, opt.IO = whiteout.Overlay, true, Passthrough
	w.mount(t, opt)
	when := time.Unix(1e9, 5)
	for k := range files {
		path := filepath.Join(w.mnt, fmt.Sprint(k))
		require.NoError(t, os.Chmod(path, 0o600))
		var work sync.WaitGroup
		work.Go(func() {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		})
		work.Go(func() { require.NoError(t, os.Chtimes(path, when, when)) })
		work.Wait()
		info, err := os.Stat(filepath.Join(w.upper, fmt.Sprint(k)))
		require.NoError(t, err)
		require.True(t, info.ModTime().Equal(when), "%d: %v", k, info.ModTime())
	}
	require.Empty(t, metacopies(t, w.upper))
}

// TestMetacopyBeingEmptied: a crash may leave a file that was emptied with the mark on
// it. What is written to it then is not behind the data of the layer.
func TestMetacopyBeingEmptied(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], "file"), make([]byte, 100000), 0o644))
	path := filepath.Join(w.upper, "file")
	require.NoError(t, os.WriteFile(path, nil, 0o640))
	require.NoError(t, unix.Setxattr(path, "user.overlay.metacopy", nil, 0))
	w.mount(t, w.options())
	data, err := os.ReadFile(filepath.Join(w.mnt, "file"))
	require.NoError(t, err)
	require.Empty(t, data)
	require.NoError(t, appendTo(filepath.Join(w.mnt, "file"), "new"))
	w.unmount(t)
	require.Empty(t, metacopies(t, w.upper))
	data, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "new", string(data))
}

// TestMetaOfAnUnlinkedFile: a file without a name whose mode changes keeps its data,
// which is below, and gets it when it is written to.
func TestMetaOfAnUnlinkedFile(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	low := filepath.Join(w.lowers[0], "file")
	want := strings.Repeat("lower data\n", 4000)
	require.NoError(t, os.WriteFile(low, []byte(want), 0o644))
	w.mount(t, w.options())
	f, err := os.OpenFile(filepath.Join(w.mnt, "file"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, os.Remove(f.Name()))
	require.NoError(t, f.Chmod(0o600))
	got := make([]byte, len(want))
	for _, first := range []byte("lL") {
		_, err = f.ReadAt(got, 0)
		require.NoError(t, err)
		require.Equal(t, string(first)+want[1:], string(got))
		_, err = f.WriteAt([]byte("L"), 0)
		require.NoError(t, err)
	}
}
