package unionfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// otherModes are those that are not the default.
var otherModes = []Mode{Writeback, Passthrough, Plain}

// inModes runs a test in every mode that this host allows.
func inModes(t *testing.T, test func(t *testing.T, mode Mode)) {
	for _, mode := range append([]Mode{Cached}, otherModes...) {
		t.Run(mode.String(), func(t *testing.T) {
			needsMode(t, mode)
			test(t, mode)
		})
	}
}

// needsMode skips a test of a mode that this host does not allow.
func needsMode(t *testing.T, mode Mode) {
	t.Helper()
	if mode != Passthrough {
		return
	}
	w := newWorld(t, 1)
	opt := w.options()
	opt.IO = mode
	s, err := Mount(w.mnt, opt)
	if errors.As(err, new(errNoPassthrough)) {
		t.Skip(err)
	}
	require.NoError(t, err)
	require.NoError(t, s.Unmount())
}

func TestParseMode(t *testing.T) {
	for mode := Cached; mode <= Auto; mode++ {
		got, err := ParseMode(mode.String())
		require.NoError(t, err)
		require.Equal(t, mode, got)
	}
	got, err := ParseMode("")
	require.NoError(t, err)
	require.Equal(t, Cached, got)
	_, err = ParseMode("fast")
	require.ErrorContains(t, err, `unknown io mode "fast"`)
}

// TestModeTaken: the server says which mode it has, and Auto always has one.
func TestModeTaken(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		w := newWorld(t, 1)
		opt := w.options()
		opt.IO = mode
		w.mount(t, opt)
		require.Equal(t, mode, w.server.Mode())
	})
	t.Run("auto", func(t *testing.T) {
		w := newWorld(t, 1)
		opt := w.options()
		opt.IO = Auto
		w.mount(t, opt)
		require.Contains(t, []Mode{Cached, Passthrough}, w.server.Mode())
		require.NoError(t, os.WriteFile(filepath.Join(w.mnt, "file"), []byte("data"), 0o644))
		data, err := os.ReadFile(filepath.Join(w.upper, "file"))
		require.NoError(t, err)
		require.Equal(t, "data", string(data))
	})
}

// TestPassthroughRefused: on an overlayfs, whose stack has no room for one more,
// Passthrough says why it can not be, leaves nothing behind, and Auto does without.
func TestPassthroughRefused(t *testing.T) {
	testenv.Root(t)
	testenv.CheckLeaks(t)
	needsMode(t, Passthrough)
	w := newWorld(t, 1)
	base := filepath.Dir(w.mnt)
	for _, dir := range []string{"l", "u", "w", "stacked"} {
		mkdir(t, base, dir)
	}
	stacked := filepath.Join(base, "stacked")
	require.NoError(t, unix.Mount("tmpfs", filepath.Join(base, "u"), "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(filepath.Join(base, "u"), 0)) })
	mkdir(t, base, "u/u")
	mkdir(t, base, "u/w")
	require.NoError(t, unix.Mount("overlay", stacked, "overlay", 0,
		fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", filepath.Join(base, "l"), filepath.Join(base, "u/u"), filepath.Join(base, "u/w"))))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(stacked, 0)) })
	mkdir(t, stacked, "upper")
	mkdir(t, stacked, "work")
	opt := w.options()
	opt.Upper, opt.Work = filepath.Join(stacked, "upper"), filepath.Join(stacked, "work")
	opt.IO = Passthrough
	_, err := Mount(w.mnt, opt)
	require.ErrorContains(t, err, "io=passthrough is refused by the kernel")
	require.ErrorContains(t, err, "stacked file system")
	opt.IO = Auto
	w.mount(t, opt)
	require.Equal(t, Cached, w.server.Mode())
}

// attacks change what a program has open for reading in all the ways there are.
var attacks = map[string]func(t *testing.T, path string, reader *os.File){
	"write": func(t *testing.T, path string, _ *os.File) {
		f := openTo(t, path, os.O_RDWR)
		_, err := f.WriteAt([]byte("changed"), 0)
		require.NoError(t, err)
	},
	"write through /proc/self/fd": func(t *testing.T, _ string, reader *os.File) {
		f := openTo(t, fmt.Sprintf("/proc/self/fd/%d", reader.Fd()), os.O_RDWR)
		_, err := f.WriteAt([]byte("changed"), 0)
		require.NoError(t, err)
	},
	"write only": func(t *testing.T, _ string, reader *os.File) {
		f := openTo(t, fmt.Sprintf("/proc/self/fd/%d", reader.Fd()), os.O_WRONLY|os.O_APPEND)
		_, err := f.Write([]byte("changed"))
		require.NoError(t, err)
	},
	"truncate": func(t *testing.T, path string, _ *os.File) { require.NoError(t, os.Truncate(path, 3)) },
	"truncate at open": func(t *testing.T, path string, _ *os.File) {
		openTo(t, path, os.O_WRONLY|os.O_TRUNC)
	},
	"truncate at open through /proc/self/fd": func(t *testing.T, _ string, reader *os.File) {
		openTo(t, fmt.Sprintf("/proc/self/fd/%d", reader.Fd()), os.O_RDWR|os.O_TRUNC)
	},
	"shared mapping": func(t *testing.T, path string, _ *os.File) {
		f := openTo(t, path, os.O_RDWR)
		data, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		require.NoError(t, err)
		poke(t, data, "changed")
		require.NoError(t, unix.Msync(data, unix.MS_SYNC))
		require.NoError(t, unix.Munmap(data))
	},
	"fallocate": func(t *testing.T, path string, _ *os.File) {
		f := openTo(t, path, os.O_RDWR)
		require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096))
	},
	"copy_file_range": func(t *testing.T, path string, _ *os.File) {
		from := openTo(t, filepath.Join(filepath.Dir(path), "other"), os.O_RDONLY)
		to, off := openTo(t, path, os.O_RDWR), int64(0)
		_, err := unix.CopyFileRange(int(from.Fd()), nil, int(to.Fd()), &off, 5, 0)
		require.NoError(t, err)
	},
	"direct": func(t *testing.T, path string, _ *os.File) {
		f := openTo(t, path, os.O_RDWR|unix.O_DIRECT)
		block, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
		require.NoError(t, err)
		_, err = f.WriteAt(block, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Munmap(block))
	},
}

// poke writes to mapped memory, and peek reads it, by a system call: a page fault
// of a view that this same process serves would stop Go's scheduler for good.
func poke(t *testing.T, mapped []byte, text string) {
	t.Helper()
	var pipe [2]int
	require.NoError(t, unix.Pipe(pipe[:]))
	_, err := unix.Write(pipe[1], []byte(text))
	require.NoError(t, err)
	_, err = unix.Read(pipe[0], mapped[:len(text)])
	require.NoError(t, errors.Join(err, unix.Close(pipe[0]), unix.Close(pipe[1])))
}

func peek(t *testing.T, mapped []byte, n int) string {
	t.Helper()
	var pipe [2]int
	buf := make([]byte, n)
	require.NoError(t, unix.Pipe(pipe[:]))
	_, err := unix.Write(pipe[1], mapped[:n])
	require.NoError(t, err)
	_, err = unix.Read(pipe[0], buf)
	require.NoError(t, errors.Join(err, unix.Close(pipe[0]), unix.Close(pipe[1])))
	return string(buf)
}

func openTo(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestAttacks: whatever is done to a file of a layer, while somebody has it open
// for reading and mapped, the layer stays as it is, and who has it open sees what
// a plain file would show.
func TestAttacks(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		for name, attack := range attacks {
			t.Run(name, func(t *testing.T) { attacked(t, mode, attack) })
		}
	})
}

func attacked(t *testing.T, mode Mode, attack func(t *testing.T, path string, reader *os.File)) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	plain := filepath.Join(filepath.Dir(w.mnt), "plain")
	mkdir(t, filepath.Dir(w.mnt), "plain")
	for _, dir := range []string{w.lowers[0], plain} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), bytes.Repeat([]byte("lower data\n"), 1000), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "other"), []byte("other data\n"), 0o644))
	}
	before := hashTrees(t, w.lowers)
	opt := w.options()
	opt.IO = mode
	w.mount(t, opt)
	seen := func(dir string) (lines []string) {
		path := filepath.Join(dir, "file")
		reader, err := os.Open(path)
		require.NoError(t, err)
		defer reader.Close()
		mapped, err := unix.Mmap(int(reader.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
		require.NoError(t, err)
		require.Equal(t, "lower data", peek(t, mapped, 10))
		t.Run("in", func(t *testing.T) { attack(t, path, reader) }) // closes what it opened
		data, err := io.ReadAll(reader)
		require.NoError(t, err)
		lines = append(lines, string(data))
		if len(data) > 0 { // else reading it is SIGBUS
			lines = append(lines, peek(t, mapped, min(len(data), 10)))
		}
		require.NoError(t, unix.Munmap(mapped))
		again, err := os.ReadFile(path)
		require.NoError(t, err)
		return append(lines, string(again))
	}
	require.Equal(t, seen(plain), seen(w.mnt))
	require.Equal(t, before, hashTrees(t, w.lowers), "a lower layer was changed")
	w.requireAllClosed(t)
}

// requireAllClosed: the view remembers no open file.
func (w *world) requireAllClosed(t *testing.T) {
	t.Helper()
	open := func() int {
		b := &w.server.fs.backings
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.byNode)
	}
	testenv.Eventually(t, "every open was released", func() bool { return open() == 0 })
}

// TestReadOnlyViewStaysSo: in a read-only view the files of the layers back, and
// nobody gets one to write, not even after the mount point was made writable.
func TestReadOnlyViewStaysSo(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		testenv.CheckLeaks(t)
		w := newWorld(t, 1)
		require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], "file"), []byte("lower data"), 0o666))
		before := hashTrees(t, w.lowers)
		opt := w.options()
		opt.Upper, opt.Work, opt.IO = "", "", mode
		w.mount(t, opt)
		path := filepath.Join(w.mnt, "file")
		reader, err := os.Open(path)
		require.NoError(t, err)
		defer reader.Close()
		if testenv.IsRoot() {
			require.NoError(t, unix.Mount("", w.mnt, "", unix.MS_REMOUNT, ""))
		}
		for _, p := range []string{path, fmt.Sprintf("/proc/self/fd/%d", reader.Fd())} {
			for _, flags := range []int{os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_TRUNC, os.O_RDONLY | os.O_TRUNC} {
				f, err := os.OpenFile(p, flags, 0)
				if err == nil { // without an answer to OPEN, writing tells
					_, err = f.Write([]byte("changed"))
					err = errors.Join(err, f.Sync(), f.Close())
				}
				require.ErrorIs(t, err, unix.EROFS)
			}
		}
		data, err := io.ReadAll(reader)
		require.NoError(t, err)
		require.Equal(t, "lower data", string(data))
		require.Equal(t, before, hashTrees(t, w.lowers), "a lower layer was changed")
	})
}

// TestWritesClearSetuid: what somebody else writes to loses setuid and setgid, as
// chmod(2) and write(2) promise, and the mode that is shown is the one on the disk.
func TestWritesClearSetuid(t *testing.T) {
	testenv.Root(t)
	changes := map[string]string{
		"write":            "printf x >>$0",
		"truncate at open": ": >$0",
		"shrink":           "truncate -s 1 $0",
		"fallocate":        "fallocate -l 100000 $0",
	}
	inModes(t, func(t *testing.T, mode Mode) {
		for name, change := range changes {
			for _, where := range []string{"lower", "upper"} {
				t.Run(name+" "+where, func(t *testing.T) {
					w := newWorld(t, 1)
					require.NoError(t, os.Chmod(filepath.Dir(filepath.Dir(w.mnt)), 0o755))
					dir := map[string]string{"lower": w.lowers[0], "upper": w.upper}[where]
					require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("some data"), 0o666))
					require.NoError(t, unix.Chmod(filepath.Join(dir, "file"), 0o6777))
					opt := w.options()
					opt.IO, opt.AllowOther, opt.Suid = mode, true, true
					w.mount(t, opt)
					path := filepath.Join(w.mnt, "file")
					var st unix.Stat_t
					require.NoError(t, unix.Stat(path, &st))
					require.EqualValues(t, 0o6777, st.Mode&0o7777)
					cmd := exec.Command("sh", "-c", change, path)
					cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
					out, err := cmd.CombinedOutput()
					require.NoError(t, err, string(out))
					require.NoError(t, unix.Stat(path, &st))
					require.Equal(t, fmt.Sprintf("%o", 0o777), fmt.Sprintf("%o", st.Mode&0o7777))
					require.NoError(t, unix.Stat(filepath.Join(w.upper, "file"), &st))
					require.Equal(t, fmt.Sprintf("%o", 0o777), fmt.Sprintf("%o", st.Mode&0o7777))
				})
			}
		}
	})
}

// TestStrangersLeaveSetuid: a chown to nobody new, which the kernel passes on for
// anybody, takes setuid only from the caller's own program, and setgid from no
// directory. What it is told differs (docs/posix.md).
func TestStrangersLeaveSetuid(t *testing.T) {
	testenv.Root(t)
	inModes(t, func(t *testing.T, mode Mode) {
		w := newWorld(t, 1)
		require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], "sudo"), []byte("program"), 0o755))
		require.NoError(t, unix.Chmod(filepath.Join(w.lowers[0], "sudo"), 0o4755))
		mkdir(t, w.lowers[0], "dir")
		require.NoError(t, unix.Chmod(filepath.Join(w.lowers[0], "dir"), 0o6755))
		opt := w.options()
		opt.IO = mode
		w.mount(t, opt)
		c, plain := startClient(t), filepath.Join(filepath.Dir(w.mnt), "plain")
		copyTree(t, w.mnt, plain)
		require.NoError(t, errors.Join(unix.Chmod(filepath.Dir(w.mnt), 0o755), unix.Chmod(filepath.Dir(filepath.Dir(w.mnt)), 0o755)))
		c.send(t, order{View: w.mnt, Plain: plain, Ops: []task{
			{Do: "chown", Path: "sudo", UID: -1, GID: -1, As: stranger}, {Do: "lstat", Path: "sudo"},
			{Do: "chown", Path: "dir", UID: -1, GID: -1}, {Do: "lstat", Path: "dir"},
			{Do: "chown", Path: "sudo", UID: -1, GID: -1}, {Do: "lstat", Path: "sudo"},
		}})
		for k, r := range c.answer(t) {
			if k == 0 || k == 1 && mode == Passthrough {
				continue
			}
			require.Equal(t, r.Plain, r.View, "%d", k)
		}
	})
}

// TestLateWritesLeaveCapabilities: data that the kernel writes later, or that came
// through a mapping, does not take away capabilities that the file has by then.
func TestLateWritesLeaveCapabilities(t *testing.T) {
	testenv.Root(t)
	inModes(t, func(t *testing.T, mode Mode) {
		w := newWorld(t, 1)
		opt := w.options()
		opt.IO = mode
		w.mount(t, opt)
		c, plain := startClient(t), filepath.Join(filepath.Dir(w.mnt), "plain")
		mkdir(t, plain, "")
		c.send(t, order{View: w.mnt, Plain: plain, Ops: []task{
			{Do: "open", Path: "file", Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o755},
			{Do: "fdwrite", Data: []byte("written")}, {Do: "fdsetattr", Attr: "security.capability", Data: capability},
			{Do: "fsync"}, {Do: "getxattr", Path: "file", Attr: "security.capability"},
			{Do: "mapwrite", Data: []byte("mapped")}, {Do: "fsync"}, {Do: "getxattr", Path: "file", Attr: "security.capability"},
			{Do: "fdwrite", Data: []byte("again")}, {Do: "getxattr", Path: "file", Attr: "security.capability"},
		}})
		for k, r := range c.answer(t) {
			require.Equal(t, r.Plain+r.PlErr, r.View+r.ViewErr, "%d", k)
		}
	})
}

// TestSeekSeesWhatIsWritten: data that was just written is no hole.
func TestSeekSeesWhatIsWritten(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		w := newWorld(t, 1)
		opt := w.options()
		opt.IO = mode
		w.mount(t, opt)
		f, err := os.Create(filepath.Join(w.mnt, "file"))
		require.NoError(t, err)
		defer f.Close()
		_, err = f.WriteAt(bytes.Repeat([]byte("x"), 4096), 1<<20)
		require.NoError(t, err)
		data, err := unix.Seek(int(f.Fd()), 1<<20, unix.SEEK_DATA)
		require.NoError(t, err)
		require.EqualValues(t, 1<<20, data)
		if mode == Writeback {
			return // the kernel takes the whole file for data
		}
		hole, err := unix.Seek(int(f.Fd()), 1<<20, unix.SEEK_HOLE)
		require.NoError(t, err)
		require.EqualValues(t, 1<<20+4096, hole)
	})
}

// TestTimesOfWrites: a write sets the time of the file, and so does one through a
// mapping, at the latest when it is closed; a time that was set stays.
func TestTimesOfWrites(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		w := newWorld(t, 1)
		old := time.Unix(1e9, 123456789)
		path := filepath.Join(w.mnt, "file")
		require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], "file"), make([]byte, 4096), 0o644))
		require.NoError(t, os.Chtimes(filepath.Join(w.lowers[0], "file"), old, old))
		opt := w.options()
		opt.IO = mode
		w.mount(t, opt)
		mtime := func() time.Time {
			st, err := os.Stat(path)
			require.NoError(t, err)
			return st.ModTime()
		}
		set := func() {
			require.NoError(t, os.Chtimes(path, old, old))
			require.Equal(t, old, mtime())
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		require.Equal(t, old, mtime(), "to open is no change")
		_, err = f.WriteAt([]byte("x"), 0)
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), mtime(), time.Minute)
		set()
		require.NoError(t, f.Close())
		require.Equal(t, old, mtime(), "to close is no change")

		f, err = os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		data, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		require.NoError(t, err)
		poke(t, data, "y")
		require.NoError(t, unix.Msync(data, unix.MS_SYNC))
		require.NoError(t, unix.Munmap(data))
		require.NoError(t, f.Close())
		testenv.Eventually(t, "the time of a mapped write", func() bool { return time.Since(mtime()) < time.Minute })
		set()
		w.unmount(t)
		st, err := os.Stat(filepath.Join(w.upper, "file"))
		require.NoError(t, err)
		require.Equal(t, old, st.ModTime(), "the time that was set last")
	})
}

// TestOpensTogether: many open, write, read and close a few files at once, low and
// up. Nothing fails, no line is lost, and every open was released.
func TestOpensTogether(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		testenv.CheckLeaks(t)
		const workers, rounds, files = 8, 100, 4
		w := newWorld(t, 1)
		for k := range files {
			require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], fmt.Sprint(k)), []byte("first\n"), 0o644))
		}
		before := hashTrees(t, w.lowers)
		opt := w.options()
		opt.IO = mode
		w.mount(t, opt)
		var wg sync.WaitGroup
		for worker := range workers {
			wg.Go(func() {
				for i := range rounds {
					if err := visit(filepath.Join(w.mnt, fmt.Sprint(i%files)), fmt.Sprintf("%d %d\n", worker, i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for k := range files {
			data, err := os.ReadFile(filepath.Join(w.mnt, fmt.Sprint(k)))
			require.NoError(t, err)
			require.Equal(t, 1+workers*rounds/files, strings.Count(string(data), "\n"))
			require.True(t, strings.HasPrefix(string(data), "first\n"))
		}
		require.Equal(t, before, hashTrees(t, w.lowers))
		w.requireAllClosed(t)
	})
}

// visit reads a file, adds a line to it, and must find the line in it with the
// descriptor it had before.
func visit(path, line string) error {
	reader, err := os.Open(path)
	if err != nil {
		return err
	}
	defer reader.Close()
	if _, err := io.ReadAll(reader); err != nil {
		return err
	}
	writer, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if _, err := writer.WriteString(line); err != nil {
		return errors.Join(err, writer.Close())
	}
	if err := writer.Close(); err != nil {
		return err
	}
	if _, err := reader.Seek(0, io.SeekStart); err != nil {
		return err
	}
	data, err := io.ReadAll(reader)
	if err == nil && !strings.Contains(string(data), line) {
		err = fmt.Errorf("%q is not in %s", line, path)
	}
	return err
}

// TestNamelessIsOpen: a file made with O_TMPFILE, given a name and opened by it is
// the same file to both descriptors.
func TestNamelessIsOpen(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		testenv.CheckLeaks(t)
		w := newWorld(t, 1)
		opt := w.options()
		opt.IO = mode
		w.mount(t, opt)
		fd, err := unix.Open(w.mnt, unix.O_TMPFILE|unix.O_RDWR, 0o640)
		require.NoError(t, err)
		_, err = unix.Pwrite(fd, []byte("nameless"), 0)
		require.NoError(t, err)
		name := filepath.Join(w.mnt, "named")
		require.NoError(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW))
		other, err := os.OpenFile(name, os.O_RDWR, 0)
		require.NoError(t, err)
		_, err = other.WriteAt([]byte("N"), 0)
		require.NoError(t, err)
		_, err = unix.Pwrite(fd, []byte("L"), 4)
		require.NoError(t, err)
		for _, fd := range []int{fd, int(other.Fd())} {
			data := make([]byte, 9)
			n, err := unix.Pread(fd, data, 0)
			require.NoError(t, err)
			require.Equal(t, "NameLess", string(data[:n]))
		}
		require.NoError(t, errors.Join(unix.Close(fd), other.Close()))
		w.requireAllClosed(t)
		data, err := os.ReadFile(filepath.Join(w.upper, "named"))
		require.NoError(t, err)
		require.Equal(t, "NameLess", string(data))
	})
}

// TestPrograms: a program of a layer and one of the upper run, and are not written
// to while they do.
func TestPrograms(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		w := newWorld(t, 1)
		program, err := os.ReadFile(testenv.Program(t, "sleep", "coreutils"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], "low"), program, 0o755))
		opt := w.options()
		opt.IO = mode
		w.mount(t, opt)
		require.NoError(t, os.WriteFile(filepath.Join(w.mnt, "up"), program, 0o755))
		for _, name := range []string{"low", "up"} {
			path := filepath.Join(w.mnt, name)
			// Not by os/exec alone: fork and exec stop Go, and with it the server.
			cmd := exec.Command("sh", "-c", `exec "$0" 60`, path)
			require.NoError(t, cmd.Start())
			testenv.Eventually(t, "the program runs", func() bool {
				exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid))
				return err == nil && exe == path
			})
			_, err := os.OpenFile(path, os.O_WRONLY, 0)
			require.ErrorIs(t, err, unix.ETXTBSY)
			require.NoError(t, cmd.Process.Kill())
			require.Error(t, cmd.Wait())
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			require.NoError(t, err)
			_, err = f.WriteString("x") // behind the program
			require.NoError(t, errors.Join(err, f.Close()))
			require.NoError(t, exec.Command("sh", "-c", `exec "$0" 0`, path).Run())
		}
	})
}

// TestTruncateAtOpenCopiesNothing: a file of a layer that is about to be emptied
// comes up without its data, for which there is no room.
func TestTruncateAtOpenCopiesNothing(t *testing.T) {
	testenv.Root(t)
	inModes(t, func(t *testing.T, mode Mode) {
		w := newWorld(t, 1)
		small := filepath.Join(filepath.Dir(w.mnt), "small")
		require.NoError(t, os.Mkdir(small, 0o755))
		require.NoError(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"))
		t.Cleanup(func() { require.NoError(t, unix.Unmount(small, 0)) })
		mkdir(t, small, "upper")
		mkdir(t, small, "work")
		require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], "big"), bytes.Repeat([]byte("x"), 4<<20), 0o644))
		opt := w.options()
		opt.IO, opt.Upper, opt.Work = mode, filepath.Join(small, "upper"), filepath.Join(small, "work")
		w.mount(t, opt)
		f, err := os.OpenFile(filepath.Join(w.mnt, "big"), os.O_WRONLY|os.O_TRUNC, 0)
		require.NoError(t, err)
		_, err = f.WriteString("new")
		require.NoError(t, err)
		require.NoError(t, f.Close())
		data, err := os.ReadFile(filepath.Join(small, "upper", "big"))
		require.NoError(t, err)
		require.Equal(t, "new", string(data))
	})
}
