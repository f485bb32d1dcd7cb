package runner

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// outside is all that comes from beyond the root, as mounts attached nowhere.
type outside struct {
	root      int // the files of the container
	proc, sys int
	devices   map[string]int // name in /dev; only those that the host has
	nodes     []hostNode
	groups    []groupMount
	shm       int   // the /dev/shm that is shared; else -1
	volumes   []int // as Config.Mounts
}

// openOutside opens it while the host's files can be seen. In a user namespace
// a new /proc can be made only as long as the old one is to be seen, too.
func openOutside(o *order) (*outside, error) {
	cfg := &o.Config
	// From here on no mount of the host appears here, nor one of ours there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make the mounts private: %w", err)
	}
	out := outside{shm: -1}
	var err error
	if out.root, err = o.openRoot(); err != nil {
		return nil, err
	}
	if out.proc, err = openProc(cfg); err != nil {
		return nil, err
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
		if out.shm, err = cloneMount(unix.AT_FDCWD, "/dev/shm", unix.AT_RECURSIVE); err != nil {
			return nil, err
		}
	}
	if o.ShmFD > 0 {
		out.shm = o.ShmFD
	}
	out.volumes, err = o.openVolumes()
	return &out, err
}

// openProc makes a new /proc of the process ids at hand. That needs power over them: to
// who has none over those of the host the host's own is shown.
func openProc(cfg *Config) (int, error) {
	const attrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	fd, err := newMount("proc", attrs)
	if errors.Is(err, unix.EPERM) && cfg.JoinedPID {
		return -1, fmt.Errorf("%w: the process ids of the other container belong to another user namespace: "+
			"only who shares that can share them", err)
	}
	if !errors.Is(err, unix.EPERM) || !cfg.HostPID {
		return fd, explainProc(err)
	}
	if fd, err = cloneMount(unix.AT_FDCWD, "/proc", unix.AT_RECURSIVE); err == nil {
		err = setMountFlags(fd, attrs, unix.AT_RECURSIVE)
	}
	if err != nil {
		return -1, fmt.Errorf("show /proc of this machine: %w", err)
	}
	return fd, nil
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

// openRoot opens the directory at path with all that is mounted below it, for [enterRoot].
func openRoot(path string) (int, error) {
	root, err := cloneMount(unix.AT_FDCWD, path, unix.AT_RECURSIVE)
	if err != nil {
		return -1, fmt.Errorf("open the root: %w", err)
	}
	return root, nil
}

// enterRoot makes the mount behind root, which is attached nowhere yet, the root of this
// process, and lets go of every other mount. It returns root.
func enterRoot(root int) (int, error) {
	steps := []struct {
		name string
		do   func() error
	}{
		// pivot_root wants a mount point, and any directory will do.
		{"move_mount", func() error {
			return unix.MoveMount(root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH)
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
			return -1, fmt.Errorf("enter the root: %w", os.NewSyscallError(step.name, err))
		}
	}
	return root, nil
}
