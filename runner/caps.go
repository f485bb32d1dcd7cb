package runner

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/seccomp"
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

// dropPrivileges gives up the user, groups, keyring and capabilities of the caller,
// but for one, in reserve, that [confine] needs. root is the container's. Who asks who he is
// becomes the user in confine.
func dropPrivileges(root int, o *order) (err error) {
	if o.who, err = o.identity(root); err != nil {
		return err
	}
	// An own session keyring, else the keys of the user's login are inside.
	_, err = unix.KeyctlJoinSessionKeyring("varve")
	if err != nil && !errors.Is(err, unix.ENOSYS) { // a kernel without keys
		return fmt.Errorf("make a session keyring: %w", err)
	}
	return o.limitCapabilities()
}

// capabilities are those that the program may have.
func (c *Config) capabilities() []int {
	if c.Capabilities == nil {
		return DefaultCapabilities()
	}
	return c.Capabilities
}

// limitCapabilities becomes the user, and leaves the program's capabilities in
// the bounding set, for root in the permitted and effective ones, too, and nothing in
// the ambient and inheritable ones (CVE-2022-24769). It acts on the calling thread.
func (o *order) limitCapabilities() error {
	err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("clear the ambient capabilities: %w", err)
	}
	var mask uint64
	for _, c := range o.capabilities() {
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
	if err := o.changeUser(); err != nil {
		return err
	}
	if o.who.uid != 0 {
		mask = 0
	}
	return setCapabilities(mask|reserve, mask)
}

// changeUser becomes the user as far as the kernel is concerned. With a single id he is its
// root, whom execve(2) gives no capabilities any more (SECBIT_NOROOT) if he is to be another.
func (o *order) changeUser() error {
	if o.Ask {
		if o.who.uid == 0 {
			return nil
		}
		const noRoot = 1
		if err := unix.Prctl(unix.PR_SET_SECUREBITS, noRoot, 0, 0, 0); err != nil {
			return fmt.Errorf("prctl PR_SET_SECUREBITS: %w", err)
		}
		return nil
	}
	if err := o.who.ownStreams(); err != nil {
		return err
	}
	return o.who.become(o.Single)
}

// reserve is kept until the filter of system calls is loaded.
const reserve = 1 << unix.CAP_SYS_ADMIN

// setCapabilities keeps those of the permitted set that are in permitted, and uses
// those that are in effective, too.
func setCapabilities(permitted, effective uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	for i := range data {
		data[i].Permitted &= uint32(permitted >> (32 * i))
		data[i].Effective = data[i].Permitted & uint32(effective>>(32*i))
		data[i].Inheritable = 0
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// confine comes right before execve: from here on the program's filter of system calls
// holds for this thread, too.
func confine(o *order, control *link) error {
	if o.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("prctl PR_SET_NO_NEW_PRIVS: %w", err)
		}
	}
	kept, err := effectiveCapabilities()
	if err != nil {
		return err
	}
	if err := setCapabilities(kept|reserve, kept|reserve); err != nil {
		return err
	}
	if o.Single {
		if err := pretend(o, control); err != nil {
			return err
		}
	}
	for _, filter := range o.Filters {
		program, err := seccomp.Decode(filter)
		if err != nil {
			return err
		}
		if err := program.Load(); err != nil {
			return err
		}
	}
	return setCapabilities(kept, kept)
}

// pretend loads a filter for what can not be done with a single id. One that asks sends the
// parent what he listens by.
func pretend(o *order, control *link) error {
	if o.Ask {
		listener, err := seccomp.Ask(o.AskAttributes).LoadListened()
		if err == nil {
			return errors.Join(o.who.introduce(control), control.send(msgListener, "", listener))
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if err = o.who.become(true); err != nil { // varve in a container: who listens already is asked
			return fmt.Errorf("the user %q can not be had: %w", o.User, err)
		}
	}
	return seccomp.Pretend().Load()
}

// effectiveCapabilities are what lookUp worked with: the program's.
func effectiveCapabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("capget: %w", err)
	}
	return uint64(data[0].Effective) | uint64(data[1].Effective)<<32, nil
}

// filter compiles what says which system calls the program may make, nil for all.
func (c *Config) filter() ([]byte, error) {
	if c.Unconfined {
		return nil, nil
	}
	var names []string
	for _, number := range c.capabilities() {
		if number >= 0 && number < len(capabilityNames()) {
			names = append(names, capabilityNames()[number])
		}
	}
	var program seccomp.Program
	var err error
	if len(c.Seccomp) == 0 {
		program, err = seccomp.Default(names)
	} else {
		var profile *seccomp.Profile
		if profile, err = seccomp.Parse(c.Seccomp); err == nil {
			program, err = profile.Compile(names)
		}
	}
	if err != nil {
		return nil, err
	}
	return program.Encode(), nil
}

// capabilityNames are those of capabilities(7), by number.
func capabilityNames() []string {
	return strings.Fields("CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID " +
		"CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW " +
		"CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT " +
		"CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE " +
		"CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM " +
		"CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE")
}

// AllCapabilities are all that the kernel has names for, a new slice each time.
func AllCapabilities() []int {
	var list []int
	for number := range capabilityNames() {
		list = append(list, number)
	}
	return list
}

// CapabilityNumber finds a capability by its name, with or without CAP_, in any case.
func CapabilityNumber(name string) (number int, known bool) {
	full := "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	number = slices.Index(capabilityNames(), full)
	return number, number >= 0
}
