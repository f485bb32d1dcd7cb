package runner

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// A View is what [View.Enclose] shuts this process up in.
type View struct {
	Root     string  // absolute path of the files of a container
	Mounts   []Mount // its volumes
	Covers   []Mount // further files, which are left out where they can not be put
	ReadOnly bool    // nothing can be changed, not even in volumes
	// ReadOnlyRoot is whether the root can not be written; volumes can.
	ReadOnlyRoot bool
}

// Enclose makes the files of a container all that this process can see: they become its
// root, with the volumes on them, and every other mount is let go of. It has to have a
// mount namespace of its own ([StartSelf] with PrivateMounts). There is no /proc and no
// /dev in the new root, and nothing in it can be executed, used as a device, or give
// rights. The process stays outside of the container's namespaces, so nothing in the
// container sees it. It returns a descriptor of the root.
func (v View) Enclose() (root int, err error) {
	unix.Umask(0)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, fmt.Errorf("make the mounts private: %w", err)
	}
	volumes, err := openVolumes(v.Mounts, false)
	if err != nil {
		return -1, err
	}
	covers, err := openVolumes(v.Covers, false)
	if err != nil {
		return -1, err
	}
	if root, err = openRoot(v.Root); err == nil {
		root, err = enterRoot(root)
	}
	if err != nil {
		return -1, err
	}
	// The mount behind root lies under the volumes now, as the init stage has it.
	if err = mountVolumes(root, &outside{volumes: volumes}, &Config{Mounts: v.Mounts}); err != nil {
		return -1, err
	}
	for i, m := range v.Covers {
		_ = coverFile(root, covers[i], m.Target) // as said
	}
	for _, fd := range append(volumes, covers...) {
		_ = unix.Close(fd) // the mount is attached
	}
	attrs := uint64(unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC)
	if v.ReadOnly {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	if err = setMountFlags(root, attrs, unix.AT_RECURSIVE); err == nil && v.ReadOnlyRoot {
		err = setMountFlags(root, unix.MOUNT_ATTR_RDONLY, 0)
	}
	if err != nil {
		return -1, fmt.Errorf("enter the files of the container: %w", err)
	}
	return root, nil
}
