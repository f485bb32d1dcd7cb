package runner

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cloneMount returns a descriptor of a new mount of what is at name in dir
// ("" is dir itself), attached nowhere; with unix.AT_RECURSIVE in flags also of
// what is mounted below it.
func cloneMount(dir int, name string, flags uint) (int, error) {
	fd, err := unix.OpenTree(dir, name, flags|unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: name, Err: tooOld(err)}
	}
	return fd, nil
}

// attach puts the mount behind descriptor mount on the file or directory behind
// descriptor target.
func attach(mount, target int) error {
	err := unix.MoveMount(mount, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return os.NewSyscallError("move_mount", tooOld(err))
	}
	return nil
}

// setMountFlags adds attributes (MOUNT_ATTR_…) to the mount behind fd; all
// others, and those that the kernel has locked, stay. flags may be
// unix.AT_RECURSIVE.
func setMountFlags(fd int, attrs uint64, flags uint) error {
	err := unix.MountSetattr(fd, "", flags|unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attrs})
	if err != nil {
		return os.NewSyscallError("mount_setattr", tooOld(err))
	}
	return nil
}

// newMount makes a new instance of a file system, attached nowhere. options are
// "key=value" or "flag", attrs MOUNT_ATTR_…. It is called as the file system, or as the
// option "source" says.
func newMount(fstype string, attrs int, options ...string) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("mount %s: fsopen: %w", fstype, tooOld(err))
	}
	defer func() { _ = unix.Close(fs) }() // a context: the mount outlives it
	if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "source=") }) {
		options = append([]string{"source=" + fstype}, options...)
	}
	for _, option := range options {
		if key, value, has := strings.Cut(option, "="); has {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, option)
		}
		if err != nil {
			return -1, fmt.Errorf("mount %s: option %s: %w", fstype, option, err)
		}
	}
	if err = unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("mount %s: %w", fstype, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return -1, fmt.Errorf("mount %s: fsmount: %w", fstype, err)
	}
	return fd, nil
}

func tooOld(err error) error {
	if errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: running containers needs Linux 5.12 or newer", err)
	}
	return err
}
