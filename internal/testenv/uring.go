package testenv

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// uringSwitch is the kernel's parameter for FUSE over io_uring, off by default.
const uringSwitch = "/sys/module/fuse/parameters/enable_uring"

// FUSEUring skips the test where views can not be served over io_uring. As root
// of the machine it switches that on and, when the test ends and no other test
// uses it, puts the parameter back to what it was.
func FUSEUring(t testing.TB) {
	t.Helper()
	FUSE(t)
	value, err := os.ReadFile(uringSwitch)
	if err != nil {
		t.Skipf("needs Linux 6.14 with CONFIG_FUSE_IO_URING: %v", err)
	}
	allowed, err := os.ReadFile("/proc/sys/kernel/io_uring_disabled")
	if err == nil && strings.TrimSpace(string(allowed)) == "2" {
		t.Skip("needs io_uring: run `sysctl kernel.io_uring_disabled=0` as root")
	}
	if unix.Access(uringSwitch, unix.W_OK) != nil {
		if strings.TrimSpace(string(value)) != "Y" {
			t.Skipf("needs FUSE over io_uring: run `echo Y > %s` as root", uringSwitch)
		}
		return
	}
	off, err := switchUringOn()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, off()) })
}

// switchUringOn keeps the parameter on until off is called by all who asked for
// it, in all processes. Who uses it shares the lock of one file; the other, locked
// while the parameter is looked at or changed, has what it was. Both locks end with
// their process.
func switchUringOn() (off func() error, err error) {
	base := filepath.Join(os.TempDir(), "varve-test-uring")
	users, err := os.OpenFile(base+".users", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(base + ".lock")
	if err != nil {
		return nil, errors.Join(err, users.Close())
	}
	value, err := os.ReadFile(uringSwitch)
	if err == nil && strings.TrimSpace(string(value)) != "Y" {
		err = errors.Join(os.WriteFile(base+".was", value, 0o600), os.WriteFile(uringSwitch, []byte("Y"), 0))
	}
	if err == nil {
		err = unix.Flock(int(users.Fd()), unix.LOCK_SH)
	}
	if err = errors.Join(err, unlock()); err != nil {
		return nil, errors.Join(err, users.Close())
	}
	return func() error {
		unlock, err := lock(base + ".lock")
		if err != nil {
			return errors.Join(err, users.Close())
		}
		if unix.Flock(int(users.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil { // we are the last
			err = putUringBack(base + ".was")
		}
		return errors.Join(err, users.Close(), unlock())
	}, nil
}

// putUringBack sets the parameter to what the file has, if there is one.
func putUringBack(file string) error {
	was, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it was on already
	}
	return errors.Join(err, os.WriteFile(uringSwitch, was, 0), os.Remove(file))
}
