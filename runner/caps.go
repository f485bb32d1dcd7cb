package runner

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// DefaultCapabilities are docker's (moby, oci/caps/defaults.go), a new slice
// each time.
func DefaultCapabilities() []int {
	return []int{
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER, unix.CAP_MKNOD,
		unix.CAP_NET_RAW, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_SETPCAP,
		unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL, unix.CAP_AUDIT_WRITE,
	}
}

// dropPrivileges gives up the groups, keyring and capabilities of the caller.
func dropPrivileges(cfg *Config) error {
	// Of this thread, which execve leaves; unix.Setgroups would stop them all.
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
	if errno != 0 && !(cfg.Single && errno == unix.EPERM) { // denied in such a namespace
		return fmt.Errorf("setgroups: %w", errno)
	}
	// An own session keyring, else the keys of the user's login are inside.
	_, err := unix.KeyctlJoinSessionKeyring("varve")
	if err != nil && !errors.Is(err, unix.ENOSYS) { // a kernel without keys
		return fmt.Errorf("make a session keyring: %w", err)
	}
	caps := cfg.Capabilities
	if caps == nil {
		caps = DefaultCapabilities()
	}
	return limitCapabilities(caps)
}

// limitCapabilities leaves keep in the bounding, permitted and effective sets,
// and nothing in the ambient and inheritable ones (CVE-2022-24769). It acts on
// the calling thread.
func limitCapabilities(keep []int) error {
	err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("clear the ambient capabilities: %w", err)
	}
	var mask uint64
	for _, c := range keep {
		mask |= 1 << c
	}
	for c := range uintptr(64) {
		if mask&(1<<c) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) { // beyond the last one the kernel knows
			break
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return setCapabilities(mask)
}

// setCapabilities keeps those of the permitted set that are in mask.
func setCapabilities(mask uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	for i := range data {
		data[i].Permitted &= uint32(mask >> (32 * i))
		data[i].Effective = data[i].Permitted
		data[i].Inheritable = 0
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}
