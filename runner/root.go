package runner

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// outside is all that comes from beyond the root, as mounts attached nowhere.
type outside struct {
	proc, sys int
	devices   map[string]int // name in /dev; only those that the host has
	nodes     []hostNode
	groups    []groupMount
	shm       int   // the host's /dev/shm, where it is shared; else -1
	volumes   []int // as Config.Mounts
}

// openOutside opens it while the host's files can be seen. In a user namespace
// a new /proc can be made only as long as the old one is to be seen, too.
func openOutside(cfg *Config) (*outside, error) {
	// From here on no mount of the host appears here, nor one of ours there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make the mounts private: %w", err)
	}
	out := outside{shm: -1}
	var err error
	if out.proc, err = newMount("proc", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC); err != nil {
		return nil, explainProc(err)
	}
	if out.sys, err = openSys(cfg.Privileged); err != nil {
		return nil, err
	}
	if out.devices, err = openDevices(); err != nil {
		return nil, err
	}
	if out.nodes, err = openNodes(cfg); err != nil {
		return nil, err
	}
	if out.groups, err = openGroups(cfg); err != nil {
		return nil, err
	}
	if cfg.HostIPC {
		if out.shm, err = cloneMount(unix.AT_FDCWD, "/dev/shm", 0); err != nil {
			return nil, err
		}
	}
	for _, m := range cfg.Mounts {
		fd, err := openVolume(m, !cfg.Privileged && !cfg.Rootless)
		if err != nil {
			return nil, err
		}
		out.volumes = append(out.volumes, fd)
	}
	return &out, nil
}

func explainProc(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: the /proc of this machine is partly covered, as in a container; "+
			"the outer container needs an unmasked /proc (docker: --security-opt systempaths=unconfined)", err)
	}
	return err
}

// openSys makes a new sysfs. That needs power over the network namespace, as
// sysfs shows its devices; without it the host's /sys is shown, read-only.
func openSys(writable bool) (int, error) {
	const attrs = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	own := attrs
	if writable {
		own &^= unix.MOUNT_ATTR_RDONLY
	}
	fd, err := newMount("sysfs", own)
	if !errors.Is(err, unix.EPERM) {
		return fd, err
	}
	if fd, err = cloneMount(unix.AT_FDCWD, "/sys", unix.AT_RECURSIVE); err != nil {
		return -1, err
	}
	if err = setMountFlags(fd, attrs, unix.AT_RECURSIVE); err != nil {
		return -1, fmt.Errorf("make /sys read-only: %w", err)
	}
	return fd, nil
}

// enterRoot makes the directory at path the root of this process and lets go of
// every other mount. It returns a descriptor of it.
func enterRoot(path string) (int, error) {
	root, err := cloneMount(unix.AT_FDCWD, path, unix.AT_RECURSIVE)
	if err != nil {
		return -1, fmt.Errorf("open the root: %w", err)
	}
	steps := []struct {
		name string
		do   func() error
	}{
		// pivot_root wants a mount point, and path may be any directory.
		{"move_mount", func() error {
			return unix.MoveMount(root, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
		}},
		{"fchdir", func() error { return unix.Fchdir(root) }},
		// pivot_root(2), "pivot_root(".", ".")": the old root comes to lie on
		// the new one, where it can be detached without a directory for it.
		{"pivot_root", func() error { return unix.PivotRoot(".", ".") }},
		{"umount2", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
		{"chdir", func() error { return unix.Chdir("/") }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return -1, fmt.Errorf("enter the root %s: %w", path, os.NewSyscallError(step.name, err))
		}
	}
	return root, nil
}
