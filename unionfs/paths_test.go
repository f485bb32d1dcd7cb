package unionfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/whiteout"
)

// deepPaths are the directories of TestLongPaths: one of names as long as they may be,
// and one of many names.
var deepPaths = map[string][]string{
	"long names":  repeat(strings.Repeat("n", 255), 15),
	"many names":  repeat("sixteen letters ", 240),
	"beyond 4096": repeat(strings.Repeat("n", 255), 20), // by directory descriptors alone
}

func repeat(name string, n int) (list []string) {
	for range n {
		list = append(list, name)
	}
	return list
}

// TestLongPaths: what lies so deep that its path has 4095 bytes, or more, is like
// anything else: seen, made, brought up, moved, removed, and found after a remount,
// in both dialects.
func TestLongPaths(t *testing.T) {
	for _, d := range []whiteout.Dialect{whiteout.Overlay, whiteout.OCI} {
		for name, dirs := range deepPaths {
			t.Run(d.String()+", "+name, func(t *testing.T) {
				testenv.CheckLeaks(t)
				w := newWorld(t, 1)
				w.removeDeep(t)
				low := makeDeep(t, w.lowers[0], dirs)
				for _, name := range []string{"change", "move", "remove", deepName("r")} {
					writeAt(t, low, name, "lower")
				}
				require.NoError(t, unix.Close(low))
				opt := w.options()
				opt.Whiteout = d
				w.mount(t, opt)
				changeDeep(t, makeDeep(t, w.mnt, dirs))
				requireDeep(t, makeDeep(t, w.mnt, dirs))
				w.unmount(t)
				w.mount(t, opt)
				requireDeep(t, makeDeep(t, w.mnt, dirs))
				w.unmount(t)
			})
		}
	}
}

// removeDeep takes away at the end what the test's own removal, by paths, can not.
func (w *world) removeDeep(t *testing.T) {
	t.Cleanup(func() {
		root, err := at.OpenRoot(filepath.Dir(w.mnt))
		require.NoError(t, err)
		for _, dir := range []string{w.upper, w.lowers[0]} {
			require.NoError(t, at.RemoveAll(root, filepath.Base(dir)))
		}
		require.NoError(t, unix.Close(root))
	})
}

// makeDeep makes directories below root, as far as they are not there, and returns a
// descriptor of the last.
func makeDeep(t *testing.T, root string, dirs []string) int {
	fd, err := at.OpenRoot(root)
	require.NoError(t, err)
	for _, name := range dirs {
		if err := at.Mkdir(fd, name, 0o755); err != nil {
			require.ErrorIs(t, err, unix.EEXIST)
		}
		next, err := at.OpenDir(fd, name)
		require.NoError(t, errors.Join(err, unix.Close(fd)))
		fd = next
	}
	return fd
}

func deepName(letter string) string { return strings.Repeat(letter, 255) }

func writeAt(t *testing.T, dir int, name, text string) {
	fd, err := at.Open(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND, 0o644)
	require.NoError(t, err)
	_, err = unix.Write(fd, []byte(text))
	require.NoError(t, errors.Join(err, unix.Close(fd)))
}

// changeDeep changes what is in the directory dir, which it closes.
func changeDeep(t *testing.T, dir int) {
	writeAt(t, dir, "change", "+upper")
	require.NoError(t, at.Rename(dir, "move", dir, deepName("m"), 0))
	require.NoError(t, at.Unlink(dir, "remove"))
	require.NoError(t, at.Unlink(dir, deepName("r")))
	writeAt(t, dir, deepName("w"), "new")
	require.NoError(t, at.Mkdir(dir, "dir", 0o700))
	require.NoError(t, at.Rename(dir, "dir", dir, deepName("d"), 0))
	require.NoError(t, unix.Close(dir))
}

// requireDeep: the directory dir, which it closes, has what changeDeep left.
func requireDeep(t *testing.T, dir int) {
	want := map[string]string{"change": "lower+upper", deepName("m"): "lower", deepName("w"): "new", deepName("d"): "directory"}
	list, err := at.ReadDir(dir)
	require.NoError(t, err)
	got := map[string]string{}
	for _, e := range list {
		var st unix.Stat_t
		require.NoError(t, at.Stat(dir, e.Name, &st))
		require.Equal(t, e.Ino, st.Ino)
		if got[e.Name] = "directory"; st.Mode&unix.S_IFMT == unix.S_IFREG {
			fd, err := at.Open(dir, e.Name, unix.O_RDONLY, 0)
			require.NoError(t, err)
			data := make([]byte, 100)
			n, err := unix.Pread(fd, data, 0)
			require.NoError(t, errors.Join(err, unix.Close(fd)))
			got[e.Name] = string(data[:n])
		}
	}
	require.Equal(t, want, got)
	for _, name := range []string{"move", "remove", deepName("r")} {
		require.ErrorIs(t, at.Stat(dir, name, new(unix.Stat_t)), unix.ENOENT)
	}
	require.NoError(t, unix.Close(dir))
}

// TestLongestPath: a path of 4095 bytes in one call is no longer than others; one of
// 4096 is ENAMETOOLONG.
func TestLongestPath(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	w.removeDeep(t)
	last := 4095 - len(w.mnt) - 1 - 14*256 // 14 directories, and this for a slash and the rest
	dirs := append(repeat(deepName("n"), 14), strings.Repeat("e", last/2))
	low := makeDeep(t, w.lowers[0], dirs)
	file := strings.Repeat("f", last-last/2-1)
	writeAt(t, low, file, "lower")
	require.NoError(t, unix.Close(low))
	w.mount(t, w.options())
	path := filepath.Join(w.mnt, strings.Join(dirs, "/"), file)
	require.Len(t, path, 4095)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "lower", string(data))
	_, err = os.Stat(path + "f")
	require.ErrorIs(t, err, unix.ENAMETOOLONG)
	other := path[:len(path)-1] + "g"
	require.NoError(t, appendTo(path, "+upper"))
	require.NoError(t, os.Rename(path, other))
	require.NoError(t, os.WriteFile(path, []byte("new"), 0o644))
	require.NoError(t, os.Link(other, path[:len(path)-1]+"h"))
	require.NoError(t, os.Remove(other))
	require.NoError(t, os.Symlink(path, other))
	w.unmount(t)
	w.mount(t, w.options())
	for name, want := range map[string]string{path: "new", other: "new", path[:len(path)-1] + "h": "lower+upper"} {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, want, string(data))
	}
}
