package runner

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// Network says which network a container has.
type Network int

const (
	// HostNetwork shares the network of the caller.
	HostNetwork Network = iota
	// NoNetwork is a network namespace of its own with nothing but loopback.
	NoNetwork
	// JoinedNetwork is that of another container, Config.Shared.
	JoinedNetwork
)

// Mount is a file or directory of the host that the container sees (-v).
type Mount struct {
	Source   string // absolute path on the host; has to exist
	Target   string // absolute path in the container; made where it is missing
	ReadOnly bool   // also all that is mounted below Source
	// NonRecursive leaves out what is mounted below Source.
	NonRecursive bool
	// Cover puts it over the name itself, and never where a link of that name leads. Where
	// the name is missing it is made without a change of the directory's times.
	Cover bool
}

// Tmpfs is an empty file system in memory.
type Tmpfs struct {
	Target  string   // absolute path in the container; made where it is missing
	Options []string // as mount(8) has them: size=…, mode=…, ro, exec, …
}

// Rlimit is a limit of each process by itself (getrlimit(2)); Resource is
// RLIMIT_….
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
}

// Config is what [Start] runs. Root and Args are required, the zero value of
// all else works.
type Config struct {
	Root     string   // absolute path of the view; nothing else should be mounted on it later
	Args     []string // the program and its arguments; a program without "/" is looked up in the PATH of Env
	Env      []string // NAME=value, all there is
	Cwd      string   // absolute, in the container; "" is "/". Made where it is missing
	Hostname string   // "" keeps the host's name
	// Domainname is that of NIS; "" keeps the host's. Neither is set with HostUTS.
	Domainname string
	Mounts     []Mount
	Network    Network

	// Sysctls are values of the kernel's by name, as in net.ipv4.ip_forward. The caller sees
	// to it that they are of namespaces that the container has for itself.
	Sysctls map[string]string

	// Init has a small process 1 that starts the program, hands signals on to it, and
	// waits for processes that were orphaned.
	Init bool

	// Terminal gives the program a terminal of its own as descriptors 0 to 2,
	// whose other side is Process.Console; Stdin, Stdout and Stderr are not
	// used then.
	Terminal bool
	// Columns and Rows are the terminal's size when the program starts; 0 and
	// 0 leave it unknown.
	Columns, Rows uint16

	// Descriptors 0 to 2 of the program; nil is the container's /dev/null.
	// They stay the caller's, who may close them once Start has returned.
	Stdin  *os.File `json:"-"`
	Stdout *os.File `json:"-"`
	Stderr *os.File `json:"-"`

	// Stage is the file of a program whose main begins with [Stage], to which nobody
	// can write; nil is this program's own, on a mount that can only be read. It
	// stays the caller's, who must not close it before the container has ended.
	Stage *os.File `json:"-"`

	// Group is the directory of a control group of version 2 that the program
	// is born in; nil is the caller's. It stays the caller's. Where the kernel
	// refuses it the program is born outside, and Process.Grouped says so.
	Group *os.File `json:"-"`
	// Join are directories of control groups of version 1, which the init stage
	// moves itself to.
	Join []string

	// GroupDir is the path of Group, for the container to see it below /sys/fs/cgroup,
	// as it does those of Join; "" shows nothing.
	GroupDir string
	// HostCgroups, HostIPC and HostUTS share these namespaces of the caller.
	HostCgroups, HostIPC, HostUTS bool
	// HostPID shares the caller's process ids. The program is not process 1 then, and what
	// it has started ends with it as [Process.Wait] says.
	HostPID bool
	// Shared are namespaces of other containers in the place of own ones. For [Process.Exec]
	// JoinedPID says that the container has process ids of another one.
	Shared    Shared `json:"-"`
	JoinedPID bool
	// NoShm leaves /dev/shm out.
	NoShm bool

	Rlimits []Rlimit
	// CPUs are the processors that the program may run on; nil is all that the
	// caller may.
	CPUs []int

	// ReadOnly is whether the root itself can not be written; mounts on it can.
	ReadOnly bool
	// ShmSize is how many bytes /dev/shm holds; 0 is [DefaultShmSize].
	ShmSize int64
	Tmpfs   []Tmpfs
	// OOMScoreAdj is how gladly the kernel kills the program for want of memory,
	// -1000 to 1000; nil is as it does the caller.
	OOMScoreAdj *int

	// Rootless says that this is in a user namespace, where device nodes can
	// not be made: those of the host are shown instead. Single says that this
	// namespace has one id, 0. Start sees to both itself.
	Rootless, Single bool

	// UIDs and GIDs give the program a user namespace of its own: outside are the ids of
	// the caller, who has to have the right to map them (user_namespaces(7)). nil has the
	// program in the caller's. The root and the volumes are opened by the caller then, as
	// whoever is root inside may have no way to them.
	UIDs, GIDs []IDMap

	// Capabilities are the numbers (CAP_…) of what the program may have; nil
	// is [DefaultCapabilities].
	Capabilities []int
	// Privileged leaves /proc and /sys as the kernel makes them, shows all devices, and lets
	// the program open device nodes that it makes.
	Privileged bool
	// Unmasked leaves /proc as the kernel makes it, and what of /sys is hidden otherwise.
	Unmasked bool
	// Devices of the host.
	Devices []Device
	// NoNewPrivileges keeps set-user-ID programs from giving any.
	NoNewPrivileges bool
	// Unconfined lets the program make every system call; else Seccomp, docker's
	// JSON, says which, and if that is empty docker's default profile.
	Unconfined bool
	Seccomp    []byte

	// Pretence answers what the program and all that it starts ask about users and
	// owners, in a namespace with one id; it stays the caller's. nil has all of it succeed
	// without effect.
	Pretence *Pretence `json:"-"`

	// User is USER[:GROUP], names of the root's /etc/passwd and /etc/group or
	// numbers; "" is root. Groups are more groups, in the same words. Who has no
	// HOME in Env gets that of /etc/passwd.
	User   string
	Groups []string
	// UserIsWish: where User can not be had, as there is a single id and no Pretence, root has to do.
	UserIsWish bool
}

// ErrNotFound means that the program is not in the container (exit code 127).
var ErrNotFound = errors.New("not found")

// ErrNotExecutable means that it is there, but can not be run (exit code 126).
var ErrNotExecutable = errors.New("not executable")

func (c *Config) check() error {
	if len(c.Args) == 0 {
		return errors.New("no command specified")
	}
	if !path.IsAbs(c.Root) {
		return fmt.Errorf("the root %q is not an absolute path", c.Root)
	}
	if c.Cwd != "" && !path.IsAbs(c.Cwd) {
		return fmt.Errorf("the working directory '%s' is invalid, it needs to be an absolute path", c.Cwd)
	}
	for _, s := range slices.Concat(c.Args, c.Env) {
		if strings.IndexByte(s, 0) >= 0 {
			return fmt.Errorf("%q has a NUL byte in it", s)
		}
	}
	for _, t := range c.Tmpfs {
		if !path.IsAbs(t.Target) || path.Clean(t.Target) == "/" {
			return fmt.Errorf("invalid tmpfs %q: it needs an absolute path below '/'", t.Target)
		}
		if _, _, err := t.options(); err != nil {
			return err
		}
	}
	for _, m := range c.Mounts {
		if err := m.check(); err != nil {
			return err
		}
	}
	return nil
}

func (m *Mount) check() error {
	if !path.IsAbs(m.Source) || !path.IsAbs(m.Target) {
		return fmt.Errorf("invalid volume %q:%q: both paths need to be absolute", m.Source, m.Target)
	}
	if path.Clean(m.Target) == "/" {
		return fmt.Errorf("invalid volume %q:%q: destination can't be '/'", m.Source, m.Target)
	}
	return nil
}
