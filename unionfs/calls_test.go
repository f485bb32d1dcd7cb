package unionfs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

func TestTmpfile(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	mkdir(t, w.lowers[0], "dir")
	require.NoError(t, os.Chmod(filepath.Join(w.lowers[0], "dir"), 0o2775))
	w.mount(t, w.options())
	dir := filepath.Join(w.mnt, "dir")
	for k := range 3 {
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
		require.NoError(t, err)
		_, err = unix.Pwrite(fd, []byte("nameless"), 0)
		require.NoError(t, err)
		var st unix.Stat_t
		require.NoError(t, unix.Fstat(fd, &st))
		require.EqualValues(t, 0, st.Nlink)
		require.EqualValues(t, unix.S_IFREG|0o640, st.Mode)
		name := filepath.Join(dir, fmt.Sprintf("named%d", k))
		require.NoError(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW))
		_, err = unix.Pwrite(fd, []byte("N"), 0)
		require.NoError(t, err)
		require.NoError(t, unix.Fstat(fd, &st))
		require.EqualValues(t, 1, st.Nlink)
		require.NoError(t, unix.Close(fd))
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, "Nameless", string(data))
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o640) // and one that is never named
	require.NoError(t, err)
	require.NoError(t, unix.Close(fd))
	w.unmount(t)
	list, err := os.ReadDir(filepath.Join(w.upper, "dir"))
	require.NoError(t, err)
	require.Len(t, list, 3)
}

func TestCopyFileRange(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	must(os.WriteFile(filepath.Join(w.lowers[0], "from"), []byte("0123456789"), 0o644))
	must(os.WriteFile(filepath.Join(w.lowers[0], "to"), []byte("abcdefghij"), 0o644))
	w.mount(t, w.options())
	from, err := os.Open(filepath.Join(w.mnt, "from"))
	require.NoError(t, err)
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(w.mnt, "to"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer to.Close()
	data, err := os.ReadFile(to.Name()) // so that there is something cached to be wrong
	require.NoError(t, err)
	require.Equal(t, "abcdefghij", string(data))
	offIn, offOut := int64(2), int64(8)
	n, err := unix.CopyFileRange(int(from.Fd()), &offIn, int(to.Fd()), &offOut, 5, 0)
	require.NoError(t, err)
	require.Equal(t, 5, n)
	data, err = os.ReadFile(to.Name())
	require.NoError(t, err)
	require.Equal(t, "abcdefgh23456", string(data))
}

func TestBirthTime(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	low := filepath.Join(w.lowers[0], "file")
	must(os.WriteFile(low, []byte("x"), 0o644))
	w.mount(t, w.options())
	birth := func(path string) unix.StatxTimestamp {
		var st unix.Statx_t
		require.NoError(t, unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st))
		require.NotZero(t, st.Mask&unix.STATX_BTIME, path)
		require.EqualValues(t, 1, st.Size)
		return st.Btime
	}
	require.Equal(t, birth(low), birth(filepath.Join(w.mnt, "file")))
	must(os.WriteFile(filepath.Join(w.mnt, "new"), []byte("y"), 0o644))
	require.Equal(t, birth(filepath.Join(w.upper, "new")), birth(filepath.Join(w.mnt, "new")))
}

// TestACLClearsSetgid: who is not of the group of a file can not keep it setgid by
// way of an access list. For who is, it stays.
func TestACLClearsSetgid(t *testing.T) {
	testenv.Root(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	low := filepath.Join(w.lowers[0], "file")
	require.NoError(t, os.WriteFile(low, []byte("x"), 0o600))
	require.NoError(t, os.Chown(low, 4242, 4300))
	opt := w.options()
	opt.AllowOther = true
	w.mount(t, opt)
	for dir := w.mnt; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	file := filepath.Join(w.mnt, "file")
	for _, c := range []struct {
		gid  uint32
		list string
		want os.FileMode
	}{{4300, "u:4243:r", os.ModeSetgid}, {4242, "u:4243:rw", 0}} {
		require.NoError(t, os.Chmod(file, 0o770|os.ModeSetgid))
		cmd := exec.Command("setfacl", "-m", c.list, file)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: c.gid}}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, c.want, info.Mode()&os.ModeSetgid, "set by somebody of group %d", c.gid)
	}
}

// TestWorkHandsNothingDown: a default access list on the work directory is not of the
// files that are prepared in it.
func TestWorkHandsNothingDown(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], "file"), []byte("x"), 0o644))
	opt := w.options()
	out, err := exec.Command("setfacl", "-d", "-m", "u:4243:rwx", opt.Work).CombinedOutput()
	require.NoError(t, err, string(out))
	w.mount(t, opt)
	require.NoError(t, os.WriteFile(filepath.Join(w.mnt, "file"), []byte("y"), 0))
	_, err = unix.Lgetxattr(filepath.Join(w.upper, "file"), "system.posix_acl_access", make([]byte, 100))
	require.ErrorIs(t, err, unix.ENODATA)
	info, err := os.Stat(filepath.Join(w.mnt, "file"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), info.Mode())
}

// TestReadingLeavesNoTrace: neither in the layers nor in the upper, where the file
// systems below would note the time of a first read.
func TestReadingLeavesNoTrace(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	old := time.Unix(1000, 0)
	places := []string{w.upper, w.lowers[0]}
	var all []string
	for _, root := range places {
		dir := filepath.Join(root, filepath.Base(root))
		mkdir(t, root, filepath.Base(root))
		file := filepath.Join(dir, "file")
		require.NoError(t, os.WriteFile(file, []byte("some data"), 0o644))
		for _, path := range []string{file, dir} {
			require.NoError(t, os.Chtimes(path, old, time.Unix(2000, 0)))
			all = append(all, path)
		}
	}
	w.mount(t, w.options())
	for _, root := range places {
		dir := filepath.Join(w.mnt, filepath.Base(root))
		_, err := os.ReadDir(dir)
		require.NoError(t, err)
		_, err = os.ReadFile(filepath.Join(dir, "file"))
		require.NoError(t, err)
	}
	for _, path := range all {
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(path, &st))
		require.Equal(t, old.Unix(), st.Atim.Sec, path)
	}
}

// TestACLIsChecked: a list lets in, and keeps out, whom it names. The kernel
// checks; that it asks us for the list is what is tested.
func TestACLIsChecked(t *testing.T) {
	testenv.Root(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	low := filepath.Join(w.lowers[0], "file")
	must(os.WriteFile(low, []byte("x"), 0o600))
	// user::rw-, user:4242:r--, group::---, mask::r--, other::---
	list := []byte{2, 0, 0, 0,
		1, 0, 6, 0, 255, 255, 255, 255,
		2, 0, 4, 0, 0x92, 0x10, 0, 0,
		4, 0, 0, 0, 255, 255, 255, 255,
		0x10, 0, 4, 0, 255, 255, 255, 255,
		0x20, 0, 0, 0, 255, 255, 255, 255}
	require.NoError(t, unix.Setxattr(low, "system.posix_acl_access", list, 0))
	opt := w.options()
	opt.AllowOther = true
	w.mount(t, opt)
	for dir := w.mnt; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	read := func(uid uint32) error {
		cmd := exec.Command("cat", filepath.Join(w.mnt, "file"))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		return cmd.Run()
	}
	require.NoError(t, read(4242))
	require.Error(t, read(4243))
	require.NoError(t, os.Chmod(filepath.Join(w.mnt, "file"), 0o600)) // the mask keeps 4242 out, too; and the file comes up
	require.Error(t, read(4242))
	require.NoError(t, os.Chmod(filepath.Join(w.mnt, "file"), 0o640))
	require.NoError(t, read(4242))
	require.Error(t, read(4243))
}
