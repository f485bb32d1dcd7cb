package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Who is root in a user namespace of its own (Config.UIDs) may be nobody to this machine,
// with no way to the view in the store, to a volume in somebody's home, or to a control
// group. So the caller opens these, and lends them to the stage as descriptors.

// lent are the numbers of such descriptors; without a user namespace an init stage has none,
// and opens by path.
type lent struct {
	RootFD    int   // 0: neither it nor volumes are lent
	ShmFD     int   // /dev/shm of another container; 0 for none
	VolumeFDs []int // as Config.Mounts
	ProcsFDs  []int // cgroup.procs of Config.Join
}

// lend opens for the stage what o asks for: /dev/shm of another container, and if there is a
// user namespace of its own the rest, too; where the container is there already, and the
// stage is born in it, the control groups alone.
func (w *passage) lend(o *order) error {
	add := func(fd int, name string) int {
		w.loans = append(w.loans, os.NewFile(uintptr(fd), name))
		return binaryFD + len(w.loans)
	}
	if o.Shared.IPC != nil && w.target == nil {
		fd, err := openShm(o.Shared.IPC)
		if err != nil {
			return err
		}
		o.ShmFD = add(fd, "/dev/shm")
		if err = makePrivate(fd); err != nil {
			return err
		}
	}
	if o.UIDs == nil && w.target == nil {
		return nil
	}
	for _, dir := range o.Join {
		name := filepath.Join(dir, procsName)
		fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("join a control group: %w", &os.PathError{Op: "open", Path: name, Err: err})
		}
		o.ProcsFDs = append(o.ProcsFDs, add(fd, name))
	}
	if w.target != nil {
		return nil
	}
	root, err := openRoot(o.Root)
	if err != nil {
		return err
	}
	o.RootFD = add(root, o.Root)
	if err = makePrivate(root); err != nil {
		return err
	}
	for _, m := range o.Mounts {
		fd, err := openVolume(m, o.closesDevices())
		if err != nil {
			return err
		}
		o.VolumeFDs = append(o.VolumeFDs, add(fd, m.Source))
		if err = makePrivate(fd); err != nil {
			return err
		}
	}
	return nil
}

// makePrivate has no mount of the host appear below the one behind fd, nor the reverse.
func makePrivate(fd int) error {
	err := unix.MountSetattr(fd, "", unix.AT_RECURSIVE|unix.AT_EMPTY_PATH, &unix.MountAttr{Propagation: unix.MS_PRIVATE})
	if err != nil {
		return fmt.Errorf("make the mounts private: %w", os.NewSyscallError("mount_setattr", tooOld(err)))
	}
	return nil
}

// openRoot is the stage's root, lent or by its path.
func (o *order) openRoot() (int, error) {
	if o.RootFD > 0 {
		return o.RootFD, nil
	}
	return openRoot(o.Root)
}

// openVolumes are the volumes, lent or by their paths.
func (o *order) openVolumes() ([]int, error) {
	if o.RootFD > 0 {
		return o.VolumeFDs, nil
	}
	return openVolumes(o.Mounts, o.closesDevices())
}

// procsName is the file by which a process joins a control group.
const procsName = "cgroup.procs"

// openProcs opens that of the i-th of the groups to be joined, which is dir.
func (o *order) openProcs(i int, dir string) (int, error) {
	if i < len(o.ProcsFDs) {
		return o.ProcsFDs[i], nil
	}
	return unix.Open(filepath.Join(dir, procsName), unix.O_WRONLY|unix.O_CLOEXEC, 0)
}

// closesDevices tells whether no device node can be opened but those in /dev. In a user
// namespace whose root mounted the view the kernel sees to that.
func (c *Config) closesDevices() bool {
	return !c.Privileged && (!c.Rootless || c.UIDs != nil)
}

// bearInUserns has a process be born in a user namespace of its own, as its root; where
// there is none, as the only user, with all capabilities.
func bearInUserns(sys *syscall.SysProcAttr, cfg *Config) {
	sys.Cloneflags |= unix.CLONE_NEWUSER
	sys.UidMappings, sys.GidMappings = sysMap(cfg.UIDs), sysMap(cfg.GIDs)
	sys.GidMappingsEnableSetgroups = !cfg.Single // where the caller may not, nor may we
	if cfg.hasRoot() {
		sys.Credential = &syscall.Credential{NoSetGroups: cfg.Single}
	} else {
		sys.AmbientCaps = everyCapability()
	}
}

// hasRoot tells whether the user namespace has a root.
func (c *Config) hasRoot() bool { return OutsideID(c.UIDs, 0) >= 0 && OutsideID(c.GIDs, 0) >= 0 }

// everyCapability are all that this program knows of, for a process to keep them over
// execve though it is not root.
func everyCapability() (list []uintptr) {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		list = append(list, c)
	}
	return list
}

// giveStreams gives the pipes that are the descriptors 0 to 2 to the root of the user
// namespace, so that /dev/stdout can be opened again there.
func giveStreams(cfg *Config) error {
	uid, gid := OutsideID(cfg.UIDs, 0), OutsideID(cfg.GIDs, 0)
	for _, f := range []*os.File{cfg.Stdin, cfg.Stdout, cfg.Stderr} {
		if f == nil || uid < 0 || gid < 0 {
			continue
		}
		info, err := f.Stat()
		if err == nil && info.Mode()&os.ModeNamedPipe != 0 {
			err = f.Chown(uid, gid)
		}
		// It may be somebody's who is not root here.
		if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("give the container its streams: %w", err)
		}
	}
	return nil
}

// OutsideID is the id of the parent user namespace that one with these ids shows as inside;
// -1 is none.
func OutsideID(ids []IDMap, inside int) int {
	i := slices.IndexFunc(ids, func(m IDMap) bool { return inside >= m.Inside && inside < m.Inside+m.Size })
	if i < 0 {
		return -1
	}
	return ids[i].Outside + inside - ids[i].Inside
}
