package unionfs

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// TestStandIns: links, FIFOs and sockets, new ones and those of a layer, have owners where
// only regular files and directories can keep them. They are used as what they stand for,
// are the same after a remount, and as a layer of another view.
func TestStandIns(t *testing.T) {
	w := idWorld(t)
	low := func(name string) string { return filepath.Join(w.lowers[0], name) }
	must(unix.Mkfifo(low("lower fifo"), 0o640))
	must(os.Symlink("root", low("lower link")))
	must(os.Link(low("lower link"), low("lower link too")))
	must(standIn(low("kept link"), "five", "33:44:0777:symlink"))
	must(standIn(low("kept fifo"), "", "33:44:0400:pipe"))
	must(standIn(low("kept fifo too"), "", "33:44:0600:pipe"))
	opt := w.options()
	opt.Override, opt.StandIns = OverrideUser, true
	w.mount(t, opt)
	in := func(name string) string { return filepath.Join(w.mnt, name) }

	// As they are in the layer, and then in the upper with another owner.
	require.Equal(t, "5:5 0777", owner(t, in("link")))
	require.Equal(t, "33:44 0777", owner(t, in("kept link")))
	require.Equal(t, "33:44 0400", owner(t, in("kept fifo")))
	before, err := os.Lstat(in("kept link"))
	must(err)
	require.EqualValues(t, len("five"), before.Size())
	for _, name := range []string{"link", "lower link", "kept link"} {
		must(os.Lchown(in(name), 7, 8))
		require.Equal(t, "7:8 0777", owner(t, in(name)))
		requireStandIn(t, filepath.Join(w.upper, name), name == "lower link")
	}
	require.Equal(t, "7:8 0777", owner(t, in("lower link too")), "it is the same file")
	for _, name := range []string{"lower fifo", "kept fifo"} {
		must(os.Chown(in(name), 7, 8))
		must(os.Chmod(in(name), 0o604))
		require.Equal(t, "7:8 0604", owner(t, in(name)))
		requireStandIn(t, filepath.Join(w.upper, name), false)
	}
	data, err := os.ReadFile(in("kept link"))
	must(err)
	require.Equal(t, "five", string(data))

	// New ones.
	must(os.Mkdir(in("dir"), 0o755))
	must(os.Chown(in("dir"), 1, 99))
	must(unix.Chmod(in("dir"), 0o2775))
	must(os.Symlink("../root", in("dir/new")))
	require.Equal(t, "0:99 0777", owner(t, in("dir/new")), "of a setgid directory's group")
	requireStandIn(t, filepath.Join(w.upper, "dir/new"), false)
	must(os.Lchown(in("dir/new"), 1<<31, -1))
	require.Equal(t, "2147483648:99 0777", owner(t, in("dir/new")))
	must(os.Link(in("dir/new"), in("hard")))
	must(os.Lchown(in("hard"), 4, 4))
	require.Equal(t, "4:4 0777", owner(t, in("dir/new")))
	must(os.Remove(in("root"))) // and over a whiteout
	must(os.Symlink("five", in("root")))
	must(os.Lchown(in("root"), 3, 3))
	testSocket(t, in("socket"))
	must(os.Chown(in("socket"), 5, 6))
	must(unix.Mkfifo(in("fifo"), 0o600))
	testFIFO(t, in("fifo"))
	testFIFO(t, in("kept fifo"))
	must(os.Rename(in("fifo"), in("dir/fifo")))
	must(os.Chown(in("dir/fifo"), 11, 12))
	require.NoFileExists(t, in("fifo"))
	require.Error(t, os.Symlink("x", in("hard")))
	must(os.Symlink("gone", in("gone")))
	must(os.Remove(in("gone")))
	_, err = os.Readlink(in("fifo"))
	require.Error(t, err)
	for _, name := range []string{"unlinked", "kept fifo too"} { // open files outlive their names
		if name == "unlinked" {
			must(unix.Mkfifo(in(name), 0o600))
		}
		f, err := os.OpenFile(in(name), os.O_RDWR, 0)
		must(err)
		must(os.Remove(in(name)))
		must(f.Chown(21, 22))
		info, err := f.Stat()
		must(err)
		require.Equal(t, os.ModeNamedPipe|0o600, info.Mode(), name)
		require.EqualValues(t, 21, info.Sys().(*syscall.Stat_t).Uid, name)
		must(f.Close())
	}

	// Nobody inside can say with the attribute what is not so.
	for _, name := range []string{"hard", "socket", "dir/fifo", "five"} {
		require.Error(t, unix.Lsetxattr(in(name), overrideAttrs[OverrideUser][0], []byte("0:0:0777:symlink"), 0))
		_, err = at.Getxattr(at.CWD, in(name), overrideAttrs[OverrideUser][0])
		require.Error(t, err)
	}

	list, inos := listing(t, w.mnt), inodes(t, w.mnt)
	w.unmount(t)
	w.mount(t, opt)
	require.Equal(t, list, listing(t, w.mnt), "after a remount")
	require.Equal(t, inos, inodes(t, w.mnt), "after a remount")
	require.Equal(t, map[string]string{
		"link": "five", "lower link": "root", "lower link too": "root", "kept link": "five", "dir/new": "../root", "hard": "../root", "root": "five",
	}, targets(t, w.mnt))
	testSocketAgain(t, in("socket"))
	w.unmount(t)

	again := Options{Lowers: append([]Lower{{Path: w.upper}}, opt.Lowers...), Override: OverrideUser}
	w.mount(t, again)
	require.Equal(t, list, listing(t, w.mnt), "as a layer")
	require.Equal(t, "../root", targets(t, w.mnt)["hard"])
}

// TestStandInsAreAsked: who mounts with xattr_permissions=2 gets what fuse-overlayfs writes,
// and what is a stand-in in a layer stays one in the upper.
func TestStandInsAreAsked(t *testing.T) {
	w := idWorld(t)
	must(standIn(filepath.Join(w.lowers[0], "kept"), "five", "33:44:0777:symlink"))
	opt := w.options()
	opt.Override = OverrideUser
	w.mount(t, opt)
	in := func(name string) string { return filepath.Join(w.mnt, name) }
	must(os.Symlink("target", in("new")))
	target, err := os.Readlink(filepath.Join(w.upper, "new"))
	must(err)
	require.Equal(t, "target", target)
	must(os.Lchown(in("kept"), 1, 1))
	require.Equal(t, "1:1 0777", owner(t, in("kept")))
	requireStandIn(t, filepath.Join(w.upper, "kept"), false)
	require.Equal(t, "five", targets(t, w.mnt)["kept"])
}

// TestStandInWithoutTarget: a link that a power failure has left empty is an error to
// follow, and can be removed.
func TestStandInWithoutTarget(t *testing.T) {
	w := idWorld(t)
	must(standIn(filepath.Join(w.lowers[0], "kept"), "", "33:44:0777:symlink"))
	must(standIn(filepath.Join(w.upper, "mine"), "", "33:44:0777:symlink"))
	opt := w.options()
	opt.Override, opt.StandIns = OverrideUser, true
	w.mount(t, opt)
	for _, name := range []string{"kept", "mine"} {
		_, err := os.Readlink(filepath.Join(w.mnt, name))
		require.ErrorIs(t, err, unix.EIO, name)
		_, err = os.ReadFile(filepath.Join(w.mnt, name))
		require.ErrorIs(t, err, unix.EIO, name)
		must(os.Remove(filepath.Join(w.mnt, name)))
	}
}

// TestFindStandIn finds what is shown, and nothing that is hidden or stands for a device.
func TestFindStandIn(t *testing.T) {
	w := newWorld(t, 2)
	low := func(layer int, name string) string { return filepath.Join(w.lowers[layer], name) }
	must(os.MkdirAll(low(1, "d/e"), 0o755))
	must(os.MkdirAll(low(0, "d/e"), 0o755))
	must(standIn(low(1, "d/e/null"), "", "0:0:0600:char-1-3"))
	must(standIn(low(1, "d/e/file"), "d", "7:8:0600"))
	must(standIn(low(1, "d/e/link"), "d", "7:8:0777:symlink"))
	must(os.WriteFile(low(0, "d/e/link"), nil, 0o600))
	layers := []Lower{{Path: w.lowers[0]}, {Path: w.lowers[1]}}
	path, err := FindStandIn(layers)
	must(err)
	require.Empty(t, path)
	must(os.Remove(low(0, "d/e/link")))
	path, err = FindStandIn(layers)
	must(err)
	require.Equal(t, "d/e/link", path)
}

// requireStandIn: the file itself is regular, and gives nobody anything.
func requireStandIn(t *testing.T, path string, linked bool) {
	t.Helper()
	var st unix.Stat_t
	must(unix.Lstat(path, &st))
	require.EqualValues(t, unix.S_IFREG, st.Mode&unix.S_IFMT, path)
	require.Zero(t, st.Mode&0o7111, path)
	require.Equal(t, linked, st.Nlink == 2, path)
}

func testSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(err)
	l.SetUnlinkOnClose(false)
	defer func() { must(l.Close()) }()
	said := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = c.Write([]byte("hello"))
			_ = c.Close()
		}
		said <- err
	}()
	c, err := net.Dial("unix", path)
	must(err)
	heard, err := io.ReadAll(c)
	must(err)
	require.Equal(t, "hello", string(heard))
	must(<-said)
	must(c.Close())
}

// testSocketAgain: one whose program has ended refuses, and its name is in the way.
func testSocketAgain(t *testing.T, path string) {
	t.Helper()
	_, err := net.Dial("unix", path)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	_, err = net.Listen("unix", path)
	require.ErrorIs(t, err, unix.EADDRINUSE)
}

func testFIFO(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(err)
	defer func() { must(f.Close()) }()
	_, err = f.WriteString("through")
	must(err)
	buf := make([]byte, 7)
	_, err = io.ReadFull(f, buf)
	must(err)
	require.Equal(t, "through", string(buf))
}

// targets are those of all links below dir.
func targets(t *testing.T, dir string) map[string]string {
	t.Helper()
	list := map[string]string{}
	must(filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.Type() != os.ModeSymlink {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		must(err)
		list[rel], err = os.Readlink(path)
		return err
	}))
	return list
}

// inodes are the inode numbers of all below dir.
func inodes(t *testing.T, dir string) map[string]uint64 {
	t.Helper()
	list := map[string]uint64{}
	must(filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		var st unix.Stat_t
		must(unix.Lstat(path, &st))
		list[path] = st.Ino
		return err
	}))
	return list
}
