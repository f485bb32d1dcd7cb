package runner

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// MaskedPaths are hidden from a container: what tells about the host, though the program
// is in namespaces. The list is docker's (moby, oci/defaults.go).
func MaskedPaths() []string {
	return []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
		"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware"}
}

// ReadOnlyPaths can not be written in a container, as they would change the host.
func ReadOnlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// maskKernel hides the former and makes the latter read-only. It runs when the
// only thing at /proc and /sys is the kernel's, so all paths are the kernel's;
// what hides them is the /dev/null of our own /dev (CVE-2025-31133).
func maskKernel(root, dev int) error {
	for _, name := range MaskedPaths() {
		if err := onPath(root, name, func(fd int) error { return mask(fd, dev) }); err != nil {
			return fmt.Errorf("hide %s: %w", name, err)
		}
	}
	for _, name := range ReadOnlyPaths() {
		if err := onPath(root, name, makeReadOnly); err != nil {
			return fmt.Errorf("make %s read-only: %w", name, err)
		}
	}
	return nil
}

// onPath calls fn with what is at name, if there is something.
func onPath(root int, name string, fn func(fd int) error) error {
	fd, err := at.InRoot(root, name, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // O_PATH
	return fn(fd)
}

func mask(fd, dev int) error {
	var st unix.Stat_t
	if err := at.Stat(fd, "", &st); err != nil {
		return err
	}
	var cover int
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		cover, err = newMount("tmpfs", unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|
			unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, "mode=0555", "nr_inodes=1")
	} else {
		cover, err = cloneMount(dev, "null", 0)
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(cover) }() // attached below, or dropped
	return attach(cover, fd)
}

func makeReadOnly(fd int) error {
	mount, err := cloneMount(fd, "", unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(mount) }() // attached below, or dropped
	if err = setMountFlags(mount, unix.MOUNT_ATTR_RDONLY, unix.AT_RECURSIVE); err != nil {
		return err
	}
	return attach(mount, fd)
}
