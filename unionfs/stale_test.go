package unionfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// changes are what somebody may do to a layer below a mounted view, to its file
// dir/file, which has 5000 bytes "lower data\n".
var changes = map[string]func(t *testing.T, layer string){
	"replaced": func(t *testing.T, layer string) {
		other := filepath.Join(layer, "dir/new")
		require.NoError(t, os.WriteFile(other, bytes.Repeat([]byte("other\n"), 900), 0o644))
		require.NoError(t, os.Rename(other, filepath.Join(layer, "dir/file")))
	},
	"replaced, inode used again": func(t *testing.T, layer string) { // as ext4 mostly does
		require.NoError(t, os.Remove(filepath.Join(layer, "dir/file")))
		require.NoError(t, os.WriteFile(filepath.Join(layer, "dir/file"), bytes.Repeat([]byte("other\n"), 900), 0o644))
	},
	"written": func(t *testing.T, layer string) {
		must(os.WriteFile(filepath.Join(layer, "dir/file"), []byte("other"), 0o644))
	},
	"truncated": func(t *testing.T, layer string) { require.NoError(t, os.Truncate(filepath.Join(layer, "dir/file"), 0)) },
	"removed":   func(t *testing.T, layer string) { require.NoError(t, os.Remove(filepath.Join(layer, "dir/file"))) },
	"directory": func(t *testing.T, layer string) {
		require.NoError(t, os.Remove(filepath.Join(layer, "dir/file")))
		mkdir(t, layer, "dir/file")
	},
	"symlink": func(t *testing.T, layer string) {
		require.NoError(t, os.Remove(filepath.Join(layer, "dir/file")))
		require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(layer, "dir/file")))
	},
	"fifo": func(t *testing.T, layer string) {
		require.NoError(t, os.Remove(filepath.Join(layer, "dir/file")))
		require.NoError(t, unix.Mkfifo(filepath.Join(layer, "dir/file"), 0o644))
	},
	"directory removed": func(t *testing.T, layer string) { require.NoError(t, os.RemoveAll(filepath.Join(layer, "dir"))) },
	"directory a link": func(t *testing.T, layer string) {
		require.NoError(t, os.RemoveAll(filepath.Join(layer, "dir")))
		require.NoError(t, os.Symlink("/etc", filepath.Join(layer, "dir")))
	},
	"layer removed": func(t *testing.T, layer string) { require.NoError(t, os.RemoveAll(layer)) },
}

// TestLayerChanges: a layer that changes below the view, which nobody may do, gives
// the old data or ESTALE, never other data, and nothing is brought up of it.
func TestLayerChanges(t *testing.T) {
	for name, change := range changes {
		for _, indexed := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", index"}[indexed], func(t *testing.T) { layerChanges(t, Cached, change, indexed) })
		}
		for _, mode := range otherModes {
			t.Run(name+", "+mode.String(), func(t *testing.T) {
				needsMode(t, mode)
				layerChanges(t, mode, change, false)
			})
		}
	}
}

func layerChanges(t *testing.T, mode Mode, change func(t *testing.T, layer string), indexed bool) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 2)
	data := bytes.Repeat([]byte("lower data\n"), 500)
	for _, layer := range w.lowers {
		mkdir(t, layer, "dir")
	}
	for _, name := range []string{"file", "open"} {
		path := filepath.Join(w.lowers[1], "dir", name)
		require.NoError(t, os.WriteFile(path, data, 0o644))
		old := time.Unix(1e9, 0)
		require.NoError(t, os.Chtimes(path, old, old))
	}
	opt := w.options()
	opt.IO = mode
	if indexed {
		indexLayers(t, &opt, filepath.Join(filepath.Dir(w.mnt), "index"))
	}
	w.mount(t, opt)
	path := filepath.Join(w.mnt, "dir/file")
	_, err := os.Stat(path) // known, and not open
	require.NoError(t, err)
	open, err := os.Open(filepath.Join(w.mnt, "dir/open"))
	require.NoError(t, err)
	defer open.Close()
	_, err = open.Read(make([]byte, 1)) // cached, and open below
	require.NoError(t, err)

	change(t, w.lowers[1])
	got, err := os.ReadFile(path)
	if err != nil {
		require.ErrorIs(t, err, unix.ESTALE)
	} else {
		require.Equal(t, string(data), string(got))
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.Write([]byte("x"))
		err = errors.Join(err, f.Close()) // which tells, in writeback
	}
	require.ErrorIs(t, err, unix.ESTALE, "append")
	require.NoFileExists(t, filepath.Join(w.upper, "dir/file"))
	left, err := os.ReadDir(filepath.Join(w.work, "work"))
	require.NoError(t, err)
	require.Empty(t, left)
	got = make([]byte, len(data))
	n, err := open.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, string(data), string(got[:n]))
}

// TestNamedThingsChange: what of a layer's file is read by its name, the target of a
// link and attributes, is not another file's, nor is it brought up: it is as it was, or
// ESTALE.
func TestNamedThingsChange(t *testing.T) {
	for _, indexed := range []bool{false, true} {
		t.Run(map[bool]string{false: "merged as needed", true: "index"}[indexed], func(t *testing.T) {
			testenv.CheckLeaks(t)
			w := newWorld(t, 1)
			fill := func(dir, text string, size int) {
				file := filepath.Join(dir, "file")
				require.NoError(t, os.WriteFile(file, make([]byte, size), 0o644))
				require.NoError(t, unix.Setxattr(file, "user.test", []byte(text), 0))
				require.NoError(t, os.Symlink(text, filepath.Join(dir, "link")))
				require.NoError(t, os.Symlink(text, filepath.Join(dir, "moved")))
			}
			fill(w.lowers[0], "before", 100<<10)
			opt := w.options()
			if indexed {
				indexLayers(t, &opt, filepath.Join(t.TempDir(), "index"))
			}
			w.mount(t, opt)
			for _, name := range []string{"file", "link", "moved"} {
				_, err := os.Lstat(filepath.Join(w.mnt, name)) // known, and not read
				require.NoError(t, err)
				require.NoError(t, os.Remove(filepath.Join(w.lowers[0], name)))
			}
			fill(w.lowers[0], "someone", 100<<10+1)

			oldOrStale := func(got string, err error) {
				if err != nil {
					require.ErrorIs(t, err, unix.ESTALE)
				} else {
					require.Equal(t, "before", got)
				}
			}
			oldOrStale(os.Readlink(filepath.Join(w.mnt, "link")))
			oldOrStale(getxattr(filepath.Join(w.mnt, "file"), "user.test"))
			if list, err := listXattrs(filepath.Join(w.mnt, "file")); err != nil || !indexed {
				require.ErrorIs(t, err, unix.ESTALE, list)
			}
			require.ErrorIs(t, os.Chmod(filepath.Join(w.mnt, "file"), 0o600), unix.ESTALE) // would bring up attributes
			require.ErrorIs(t, os.Rename(filepath.Join(w.mnt, "moved"), filepath.Join(w.mnt, "to")), unix.ESTALE)
			for _, dir := range []string{w.upper, filepath.Join(w.work, "work")} {
				left, err := os.ReadDir(dir)
				require.NoError(t, err)
				require.Empty(t, left)
			}
		})
	}
}
