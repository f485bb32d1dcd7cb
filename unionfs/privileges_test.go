package unionfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// besidePlain mounts w and sends tasks to a client that does them in the view and in a
// copy of it. Both must be told the same.
func (w *world) besidePlain(t *testing.T, opt Options, tasks []task) {
	t.Helper()
	opt.AllowOther, opt.Suid = true, true
	w.mount(t, opt)
	c, plain := startClient(t), filepath.Join(filepath.Dir(w.mnt), "plain")
	copyTree(t, w.mnt, plain)
	for _, dir := range []string{plain, filepath.Dir(w.mnt), filepath.Dir(filepath.Dir(w.mnt))} {
		require.NoError(t, unix.Chmod(dir, 0o755))
	}
	c.send(t, order{View: w.mnt, Plain: plain, Ops: tasks})
	for k, r := range c.answer(t) {
		require.Equal(t, r.Plain+r.PlErr, r.View+r.ViewErr, "%d: %+v", k, tasks[k])
	}
}

// TestChangesClearPrivileges: what changes the data or the owner of a file of a layer
// takes its capabilities, or its setuid and setgid, as in a plain directory, and
// what changes neither does not.
func TestChangesClearPrivileges(t *testing.T) {
	testenv.Root(t)
	changes := []task{
		{Do: "write", Flags: unix.O_WRONLY | unix.O_APPEND, Data: []byte("x")},
		{Do: "write", Flags: unix.O_WRONLY | unix.O_TRUNC, Data: []byte("x")},
		{Do: "truncate", Size: 1}, {Do: "truncate", Size: 1 << 16},
		{Do: "chown", UID: stranger, GID: stranger}, {Do: "chown", UID: -1, GID: stranger}, {Do: "chown", UID: stranger, GID: -1},
		{Do: "chmod", Mode: 0o4755}, {Do: "utimes"}, {Do: "setxattr", Attr: "user.test", Data: []byte("x")},
		{Do: "rename", To: "moved"}, {Do: "link", To: "linked"},
	}
	inModes(t, func(t *testing.T, mode Mode) {
		w := newWorld(t, 1)
		var tasks []task
		for k, change := range changes {
			for _, kind := range []string{"caps", "setuid"} {
				change.Path = kind + string(rune('a'+k))
				low := filepath.Join(w.lowers[0], change.Path)
				require.NoError(t, os.WriteFile(low, make([]byte, 20<<10), 0o755)) // a metacopy, if that will do
				if kind == "caps" {
					require.NoError(t, unix.Setxattr(low, "security.capability", capability, 0))
				} else {
					require.NoError(t, unix.Chmod(low, 0o6775))
				}
				one := change
				if one.To != "" {
					one.To += change.Path
				}
				tasks = append(tasks, one)
				for _, path := range []string{change.Path, one.To} {
					tasks = append(tasks, task{Do: "lstat", Path: path}, task{Do: "getxattr", Path: path, Attr: "security.capability"})
				}
			}
		}
		opt := w.options()
		opt.IO = mode
		w.besidePlain(t, opt, tasks)
	})
}

// TestStickyAndSetgid: in a sticky directory only owners remove and move names, and in
// a setgid one new files are of its group, for an ordinary user, in a directory of a
// layer and in a new one.
func TestStickyAndSetgid(t *testing.T) {
	testenv.Root(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	for _, dir := range []string{"sticky", "setgid"} {
		mkdir(t, w.lowers[0], dir)
		require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], dir, "roots"), []byte("x"), 0o666))
	}
	require.NoError(t, unix.Chmod(filepath.Join(w.lowers[0], "sticky"), 0o1777))
	require.NoError(t, os.Chown(filepath.Join(w.lowers[0], "setgid"), 0, 4300))
	require.NoError(t, unix.Chmod(filepath.Join(w.lowers[0], "setgid"), 0o2777))
	tasks := []task{
		{Do: "mkdir", Path: "newsticky", Mode: 0o777}, {Do: "chmod", Path: "newsticky", Mode: 0o1777},
		{Do: "write", Path: "newsticky/roots", Flags: unix.O_CREAT | unix.O_WRONLY, Mode: 0o666},
		{Do: "mkdir", Path: "newsetgid", Mode: 0o777}, {Do: "chown", Path: "newsetgid", GID: 4300}, {Do: "chmod", Path: "newsetgid", Mode: 0o2777},
	}
	for _, dir := range []string{"sticky", "newsticky"} {
		tasks = append(tasks,
			task{Do: "unlink", Path: dir + "/roots", As: stranger},
			task{Do: "rename", Path: dir + "/roots", To: dir + "/taken", As: stranger},
			task{Do: "write", Path: dir + "/own", Flags: unix.O_CREAT | unix.O_WRONLY, Mode: 0o600, As: stranger},
			task{Do: "rename", Path: dir + "/own", To: dir + "/roots", As: stranger},
			task{Do: "rename", Path: dir + "/own", To: dir + "/mine", As: stranger},
			task{Do: "unlink", Path: dir + "/mine", As: stranger},
			task{Do: "readdir", Path: dir})
	}
	for _, dir := range []string{"setgid", "newsetgid"} {
		tasks = append(tasks,
			task{Do: "write", Path: dir + "/file", Flags: unix.O_CREAT | unix.O_WRONLY, Mode: 0o2775, As: stranger},
			task{Do: "mkdir", Path: dir + "/dir", Mode: 0o755, As: stranger},
			task{Do: "symlink", Path: dir + "/link", As: stranger},
			task{Do: "mknod", Path: dir + "/fifo", Mode: unix.S_IFIFO | 0o644, As: stranger},
			task{Do: "tmpfile", Path: dir, To: dir + "/tmpfile", Flags: unix.O_RDWR, Mode: 0o644, As: stranger},
			task{Do: "chmod", Path: dir + "/file", Mode: 0o2770, As: stranger})
		for _, name := range []string{"file", "dir", "link", "fifo", "tmpfile"} {
			tasks = append(tasks, task{Do: "lstat", Path: dir + "/" + name})
		}
	}
	w.besidePlain(t, w.options(), tasks)
}

// TestSyncsAreAsked: each fsync and fdatasync of a file or a directory is asked of the view;
// syncfs is not (docs/posix.md), and succeeds.
func TestSyncsAreAsked(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		testenv.CheckLeaks(t)
		w := newWorld(t, 1)
		require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], "low"), []byte("x"), 0o644))
		mkdir(t, w.lowers[0], "dir")
		opt := w.options()
		opt.IO, opt.Stats = mode, "here"
		w.mount(t, opt)
		require.NoError(t, os.WriteFile(filepath.Join(w.mnt, "up"), []byte("x"), 0o644))
		asked := func(op string) uint64 { return countedBy(t, w.server)[op] }
		for name, op := range map[string]string{"low": "fsync", "up": "fsync", "dir": "fsyncdir", "": "fsyncdir"} {
			f := openTo(t, filepath.Join(w.mnt, name), os.O_RDONLY)
			before := asked(op)
			require.NoError(t, unix.Fsync(int(f.Fd())))
			require.NoError(t, unix.Fdatasync(int(f.Fd())))
			require.Equal(t, before+2, asked(op), name)
			require.NoError(t, unix.Syncfs(int(f.Fd())))
		}
	})
}
