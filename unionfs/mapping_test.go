package unionfs

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// TestMappings: mappings of a lower file made before it came up and after, by
// descriptors of before and after, and what read and write say, are one; but what is
// written to a private one nobody else sees, nor the upper.
func TestMappings(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		testenv.CheckLeaks(t)
		w := newWorld(t, 1)
		require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], "file"), bytes.Repeat([]byte("lower"), 4096), 0o644))
		before := hashTrees(t, w.lowers)
		opt := w.options()
		opt.IO = mode
		w.mount(t, opt)
		path := filepath.Join(w.mnt, "file")
		mapped := func(f *os.File, prot, how int) []byte {
			data, err := unix.Mmap(int(f.Fd()), 0, 5*4096, prot, how)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, unix.Munmap(data)) })
			return data
		}
		reader := openTo(t, path, os.O_RDONLY)
		early := mapped(reader, unix.PROT_READ, unix.MAP_SHARED)
		private := mapped(reader, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		require.Equal(t, "lower", peek(t, early, 5))
		poke(t, private[4096:], "mine!")

		writer := openTo(t, path, os.O_RDWR)
		_, err := writer.WriteAt([]byte("first"), 0) // brings it up
		require.NoError(t, err)
		require.Equal(t, "first", peek(t, early, 5))
		late := mapped(writer, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		again := mapped(openTo(t, path, os.O_RDONLY), unix.PROT_READ, unix.MAP_SHARED)
		poke(t, late[2*4096:], "2 map")
		poke(t, private, "never")
		for name, data := range map[string][]byte{"before": early, "after": again} {
			require.Equal(t, "first", peek(t, data, 5), name)
			require.Equal(t, "2 map", peek(t, data[2*4096:], 5), name)
			require.Equal(t, "owerl", peek(t, data[4096:], 5), name)
		}
		for _, f := range []*os.File{reader, writer} {
			data := make([]byte, 5)
			_, err := f.ReadAt(data, 2*4096)
			require.NoError(t, err)
			require.Equal(t, "2 map", string(data))
		}
		require.Equal(t, "never", peek(t, private, 5))
		require.Equal(t, "mine!", peek(t, private[4096:], 5))
		require.NoError(t, unix.Msync(private, unix.MS_SYNC))
		require.NoError(t, unix.Msync(late, unix.MS_SYNC))
		want := bytes.Repeat([]byte("lower"), 4096)
		copy(want, "first")
		copy(want[2*4096:], "2 map")
		got, err := os.ReadFile(filepath.Join(w.upper, "file"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), "msync writes to the upper what shared mappings were told")
		require.Equal(t, before, hashTrees(t, w.lowers), "a lower layer was changed")
	})
}

// TestWrittenProgram: a program that somebody has open for writing does not run, and
// runs when it is closed, from a layer and from the upper.
func TestWrittenProgram(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		w := newWorld(t, 1)
		program, err := os.ReadFile(testenv.Program(t, "true", "coreutils"))
		require.NoError(t, err)
		for _, name := range []string{"open", "written"} {
			require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], name), program, 0o755))
		}
		opt := w.options()
		opt.IO = mode
		w.mount(t, opt)
		for _, name := range []string{"open", "written"} {
			path := filepath.Join(w.mnt, name)
			run := func() (string, error) { // not by os/exec alone, see TestPrograms
				out, err := exec.Command("sh", "-c", `exec "$0"`, path).CombinedOutput()
				return string(out), err
			}
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			require.NoError(t, err)
			if name == "written" {
				_, err := f.WriteString("x") // behind the program
				require.NoError(t, err)
			}
			out, err := run()
			require.Error(t, err)
			require.Contains(t, out, "Text file busy")
			require.NoError(t, f.Close())
			testenv.Eventually(t, "the program runs", func() bool { _, err := run(); return err == nil })
		}
	})
}

// TestReadingChangesNoTimes: reading files and directories changes no access time, in
// the view, in the layers and in the upper; to set one does.
func TestReadingChangesNoTimes(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		testenv.CheckLeaks(t)
		w := newWorld(t, 1)
		old := unix.NsecToTimespec(1e18)
		set := func(path string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{old, unix.NsecToTimespec(2e18)}, unix.AT_SYMLINK_NOFOLLOW)
		}
		var paths []string
		for dir, prefix := range map[string]string{w.lowers[0]: "low", w.upper: "up"} {
			mkdir(t, dir, prefix+"dir/sub")
			require.NoError(t, os.WriteFile(filepath.Join(dir, prefix+"file"), []byte("data"), 0o644))
			for _, name := range []string{"dir", "file"} {
				require.NoError(t, set(filepath.Join(dir, prefix+name))) // older than the change: relatime would set it
				if mode != Passthrough || prefix+name != "upfile" {      // which the kernel reads by itself
					paths = append(paths, prefix+name)
				}
			}
		}
		unchanged := func(dir string, prefix string) {
			t.Helper()
			for _, name := range paths {
				var st unix.Stat_t
				if err := unix.Lstat(filepath.Join(dir, name), &st); prefix == "" || !errors.Is(err, unix.ENOENT) {
					require.NoError(t, err)
					require.Equal(t, old, st.Atim, "%s in %s", name, dir)
				}
			}
		}
		opt := w.options()
		opt.IO = mode
		w.mount(t, opt)
		for _, name := range paths {
			path := filepath.Join(w.mnt, name)
			_, fileErr := os.ReadFile(path)
			_, dirErr := os.ReadDir(path)
			require.True(t, fileErr == nil || dirErr == nil)
		}
		unchanged(w.mnt, "")
		w.unmount(t)
		unchanged(w.lowers[0], "low")
		unchanged(w.upper, "up")
		w.mount(t, opt)
		unchanged(w.mnt, "")
		old = unix.NsecToTimespec(15e17)
		for _, name := range paths {
			require.NoError(t, set(filepath.Join(w.mnt, name)))
		}
		unchanged(w.mnt, "")
		w.unmount(t)
		w.mount(t, opt)
		unchanged(w.mnt, "")
	})
}
