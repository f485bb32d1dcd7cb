package unionfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/whiteout"
)

// TestNumbersStay: device and inode number of files of all kinds stay what they are
// over copy-up, a change, renames, a further link and remounts, merged as needed and
// with an index, in both dialects; the names of one file have one number, and
// no two files the same.
func TestNumbersStay(t *testing.T) {
	for _, d := range []whiteout.Dialect{whiteout.Overlay, whiteout.OCI} {
		for _, indexed := range []bool{false, true} {
			t.Run(d.String()+map[bool]string{true: ", index"}[indexed], func(t *testing.T) {
				testenv.CheckLeaks(t)
				w := newWorld(t, 2)
				for _, root := range w.lowers {
					mkdir(t, root, "merged/sub")
				}
				fillKinds(t, w.lowers[1])
				mkdir(t, w.lowers[0], "onelayer")
				require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], "onelayer/file"), []byte("x"), 0o644))
				opt := w.options()
				opt.Whiteout = d
				if indexed {
					indexLayers(t, &opt, filepath.Join(t.TempDir(), "index"))
				}
				w.mount(t, opt)
				mkdir(t, w.mnt, "updir")
				fillKinds(t, filepath.Join(w.mnt, "updir"))
				numbersStay(t, w, opt)
			})
		}
	}
}

// fillKinds makes a file of each kind, and one with two names.
func fillKinds(t *testing.T, root string) {
	in := func(name string) string { return filepath.Join(root, name) }
	for _, name := range []string{"file", "hard"} {
		require.NoError(t, os.WriteFile(in(name), make([]byte, 20<<10), 0o644))
	}
	mkdir(t, root, "merged/sub")
	require.NoError(t, os.Link(in("hard"), in("merged/hard2")))
	require.NoError(t, os.Symlink("target", in("symlink")))
	require.NoError(t, unix.Mkfifo(in("fifo"), 0o644))
}

func numbersStay(t *testing.T, w *world, opt Options) {
	kinds := []string{"file", "hard", "merged/hard2", "symlink", "fifo", "merged", "merged/sub"}
	paths := []string{"onelayer", "onelayer/file", "updir"}
	for _, kind := range kinds {
		paths = append(paths, kind, "updir/"+kind)
	}
	known := map[string]unix.Stat_t{}
	here := func(path string) string { return filepath.Join(w.mnt, path) }
	look := func(path string) (st unix.Stat_t) {
		require.NoError(t, unix.Lstat(here(path), &st))
		require.Equal(t, st.Ino, direntIno(t, filepath.Dir(here(path)), filepath.Base(path)), "%s: readdir and stat differ", path)
		return st
	}
	by := map[uint64]string{}
	for _, path := range paths {
		st := look(path)
		if other, ok := by[st.Ino]; ok && st.Nlink != 2 {
			t.Fatalf("%s and %s have one number", path, other)
		}
		known[path], by[st.Ino] = st, path
	}
	moved := map[string]string{}
	check := func(after string) {
		t.Helper()
		for _, path := range paths {
			now := path
			if to, ok := moved[path]; ok {
				now = to
			}
			st, was := look(now), known[path]
			require.Equal(t, was.Ino, st.Ino, "%s after %s", path, after)
			require.Equal(t, w.device(t), st.Dev, "%s after %s", path, after)
		}
		require.Equal(t, known["hard"].Ino, known["merged/hard2"].Ino)
	}
	remount := func() { w.unmount(t); w.mount(t, opt) }
	check("nothing")
	remount()
	check("a remount")
	for _, path := range paths {
		require.NoError(t, unix.Lchown(here(path), 0, 0))
	}
	check("a change of metadata")
	remount()
	check("a change of metadata and a remount")
	require.NoError(t, appendTo(here("file"), "x"))
	require.NoError(t, appendTo(here("merged/hard2"), "x"))
	require.NoError(t, os.Link(here("file"), here("file2")))
	check("a change of data")
	remount()
	check("a change of data and a remount")
	for _, path := range []string{"file", "symlink", "fifo", "hard"} {
		moved[path] = "onelayer/" + path + "m"
		require.NoError(t, os.Rename(here(path), here(moved[path])))
	}
	check("renames")
	remount()
	check("renames and a remount")
	require.NoError(t, os.Rename(here("merged"), here("updir/gone")))
	require.NoError(t, os.Rename(here("updir"), here("updir2")))
	moved["merged"], moved["merged/sub"], moved["merged/hard2"], moved["updir"] = "updir2/gone", "updir2/gone/sub", "updir2/gone/hard2", "updir2"
	for _, kind := range kinds {
		moved["updir/"+kind] = "updir2/" + kind
	}
	check("renames of directories")
	remount()
	check("renames of directories and a remount")
}

// device is the device number of the view.
func (w *world) device(t *testing.T) uint64 {
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(w.mnt, &st))
	return st.Dev
}
