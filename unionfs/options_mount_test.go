package unionfs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/testenv"
)

func TestNoXattrs(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	file := filepath.Join(w.lowers[0], "file")
	must(os.WriteFile(file, []byte("x"), 0o644))
	require.NoError(t, unix.Setxattr(file, "user.here", []byte("y"), 0))
	opt := w.options()
	opt.NoXattrs = true
	w.mount(t, opt)
	in := filepath.Join(w.mnt, "file")
	_, err := at.Getxattr(at.CWD, in, "user.here")
	require.ErrorIs(t, err, unix.EOPNOTSUPP)
	require.ErrorIs(t, unix.Setxattr(in, "user.new", nil, 0), unix.EOPNOTSUPP)
	require.ErrorIs(t, unix.Removexattr(in, "user.here"), unix.EOPNOTSUPP)
	names, err := at.Listxattr(at.CWD, in)
	require.NoError(t, err)
	require.Empty(t, names)
	must(os.WriteFile(in, []byte("more"), 0o644))
	value, err := at.Getxattr(at.CWD, filepath.Join(w.upper, "file"), "user.here")
	require.NoError(t, err, "the copy has what the view does not show")
	require.Equal(t, "y", string(value))
}

// TestOverrideHasNoACL: access lists would set the mode of the file itself.
func TestOverrideHasNoACL(t *testing.T) {
	setfacl := testenv.Program(t, "setfacl", "acl")
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	opt := w.options()
	opt.Override = OverrideUser
	w.mount(t, opt)
	in := filepath.Join(w.mnt, "file")
	must(os.WriteFile(in, nil, 0o640))
	out, err := exec.Command(setfacl, "-m", "u:0:rwx", in).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "not supported")
	_, err = at.Getxattr(at.CWD, in, "system.posix_acl_access")
	require.Error(t, err)
	fi, err := os.Stat(in)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), fi.Mode())
}

// TestOverrideTempfile: a file without a name has an owner and a mode, too.
func TestOverrideTempfile(t *testing.T) {
	w := idWorld(t)
	opt := w.options()
	opt.Override = OverrideUser
	w.mount(t, opt)
	fd, err := unix.Open(w.mnt, unix.O_TMPFILE|unix.O_RDWR, 0o604)
	require.NoError(t, err)
	require.NoError(t, unix.Fchmod(fd, 0o4604))
	require.NoError(t, unix.Fchown(fd, 3, 4))
	require.NoError(t, at.LinkFD(fd, at.CWD, filepath.Join(w.mnt, "named")))
	require.NoError(t, unix.Close(fd))
	require.Equal(t, "3:4 0604", owner(t, filepath.Join(w.mnt, "named")))
	require.Equal(t, "0:0 0604", owner(t, filepath.Join(w.upper, "named")))
}

func TestNoExecAndNames(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	must(os.WriteFile(filepath.Join(w.lowers[0], "program"), []byte("#!/bin/sh\n"), 0o755))
	opt := w.options()
	opt.NoExec, opt.Name, opt.Type = true, "some where", "of-a-kind"
	w.mount(t, opt)
	// From another process: between fork and exec Go's scheduler waits, and with it the server.
	out, err := exec.Command("/bin/sh", "-c", filepath.Join(w.mnt, "program")).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "Permission denied")
	table, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	require.Contains(t, string(table), `some\040where `+w.mnt+" fuse.of-a-kind ")
	line := string(table)[strings.Index(string(table), w.mnt):]
	require.Contains(t, line[:strings.Index(line, "\n")], "noexec")
}

// TestValidity: who lets the kernel keep nothing sees what others change in the
// upper.
func TestValidity(t *testing.T) {
	testenv.CheckLeaks(t)
	for validity, seen := range map[time.Duration]os.FileMode{0: 0o600, time.Millisecond: 0o644, -1: 0o644} {
		w := newWorld(t, 1)
		must(os.WriteFile(filepath.Join(w.upper, "file"), nil, 0o600))
		opt := w.options()
		opt.Validity = validity
		w.mount(t, opt)
		f, err := os.Open(filepath.Join(w.mnt, "file")) // so that the kernel does not forget it
		require.NoError(t, err)
		_, err = f.Stat()
		require.NoError(t, err)
		must(os.Chmod(filepath.Join(w.upper, "file"), 0o644))
		time.Sleep(50 * time.Millisecond) // the kernel counts in ticks
		fi, err := f.Stat()
		require.NoError(t, err)
		require.Equal(t, seen, fi.Mode(), validity)
		require.NoError(t, f.Close())
		w.unmount(t)
	}
}

// TestDetach: a view in use goes away for who comes later, and is served to who is
// in it.
func TestDetach(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	must(os.WriteFile(filepath.Join(w.lowers[0], "file"), []byte("low"), 0o644))
	w.mount(t, w.options())
	f, err := os.OpenFile(filepath.Join(w.mnt, "file"), os.O_RDWR, 0)
	require.NoError(t, err)
	require.Error(t, w.server.Unmount(), "it is in use")
	require.NoError(t, w.server.Detach())
	_, err = os.Stat(filepath.Join(w.mnt, "file"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = f.WriteAt([]byte("new"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	w.server.Wait()
	w.server = nil
	data, err := os.ReadFile(filepath.Join(w.upper, "file"))
	require.NoError(t, err)
	require.Equal(t, "new", string(data))
}
