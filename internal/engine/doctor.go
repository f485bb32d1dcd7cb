package engine

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/cgroup"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/runner"
)

// Finding is one line of `varve doctor`: something that this machine gives, or not.
type Finding struct {
	What string // what it is
	OK   bool
	Says string // how it is found to be
	For  string // what lacks without it
	Mend string // the command that mends it, "" where all is well
}

// Doctor looks at this machine with the eyes of this user, who has the store at root, "" for
// the default; it need not be there.
func Doctor(root string) []Finding {
	return slices.Concat([]Finding{fuseDevice()}, namespaces(root), []Finding{groups(), tunDevice(), overlay(), systemCalls(), ringFUSE()})
}

// device looks at a device node.
func device(path, use, mend string) Finding {
	f := Finding{What: path, For: use, Mend: mend}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		f.Says = err.Error()
		return f
	}
	_ = unix.Close(fd) // nothing was written
	f.OK, f.Says, f.Mend = true, "can be opened", ""
	return f
}

func fuseDevice() Finding {
	return device("/dev/fuse", "views; without it containers stand on the kernel's overlayfs, or on copies", "sudo sh -c 'modprobe fuse; chmod 0666 /dev/fuse'")
}

func tunDevice() Finding {
	return device("/dev/net/tun", "a network of a container's own, for users", "sudo sh -c 'modprobe tun; chmod 0666 /dev/net/tun'")
}

// namespaces looks at what makes a user the root of a container.
func namespaces(root string) []Finding {
	ids := Finding{What: "subordinate ids", For: "users inside that the kernel keeps apart"}
	if root == "" {
		root, _ = DefaultRoot() // without a home there is no store
	}
	plan, err := planUserns(root)
	switch {
	case err != nil:
		ids.Says, ids.Mend = err.Error(), "sudo chmod 0644 /etc/subuid /etc/subgid"
	case plan == nil:
		ids.OK, ids.Says = true, "root has all ids"
	case plan.Single:
		ids.Says, ids.Mend, _ = strings.Cut(plan.Reason, ": ")
		if mend, asRoot := strings.CutPrefix(ids.Mend, "as root, "); asRoot {
			ids.Mend = "sudo " + mend
		}
	default:
		ids.OK, ids.Says = true, "a range is granted, and newuidmap and newgidmap are there"
	}
	return []Finding{userns(plan == nil && err == nil), ids}
}

// userns makes a user namespace. Root may what a setting closes to all others.
func userns(root bool) Finding {
	f := Finding{What: "user namespaces", For: "containers of users who are not root"}
	barrier := runner.ClosedUserns()
	if !root || barrier == nil {
		err := runner.TryUserns([]string{"varve", "version"})
		if err == nil {
			f.OK, f.Says = true, "open"
			return f
		}
		found := runner.FindBarrier(err)
		barrier = &found
	}
	f.Says, f.Mend = barrier.Says, barrier.Mend
	return f
}

// groups looks at the control groups: the pause of containers, and their limits.
func groups() Finding {
	f := Finding{What: "control groups", For: "-m, --cpus, --pids-limit; a pause that programs do not notice"}
	host, err := cgroup.Find()
	if err != nil {
		f.Says = err.Error()
		return f
	}
	all := cgroup.Limits{Memory: 1, NanoCPUs: 1, CPUSet: "0", Pids: 1}
	group, missing := host.Plan(container.GroupPrefix+"doctor", all)
	switch {
	case len(missing) == 0:
		f.OK, f.Says = true, "all limits hold"
		if list := group.Passing(); len(list) > 0 {
			f.Says += ", of " + strings.Join(list, " and ") + " until systemd looks after its groups"
			f.Mend = container.ScopeCommand()
		}
		return f
	case group.Unified != "" || group.Freezer != "":
		f.Says = "can be frozen, but there is no " + strings.Join(missing, ", ")
	default:
		f.Says = "none can be made here"
	}
	f.Mend = container.ScopeCommand()
	if os.Geteuid() == 0 {
		f.Mend = "mount -o remount,rw /sys/fs/cgroup"
	}
	return f
}

func overlay() Finding {
	f := Finding{What: "kernel overlayfs", For: "containers that start at once where there is no /dev/fuse", Mend: "sudo modprobe overlay"}
	list, err := os.ReadFile("/proc/filesystems")
	if err == nil && strings.Contains(string(list), "\toverlay\n") {
		f.OK, f.Says, f.Mend = true, "there", ""
	} else {
		f.Says = "not loaded"
	}
	return f
}

func systemCalls() Finding {
	f := Finding{What: "seccomp filters", For: "docker's default system calls; without it containers do not start (--security-opt seccomp=unconfined)", Mend: "a kernel with CONFIG_SECCOMP_FILTER"}
	actions, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil {
		f.Says = "this kernel has none"
		return f
	}
	f.OK, f.Says, f.Mend = true, strings.TrimSpace(string(actions)), ""
	return f
}

func ringFUSE() Finding {
	f := Finding{What: "FUSE over io_uring", For: "speed of many cores", Mend: "sudo sh -c 'echo 1 > /sys/module/fuse/parameters/enable_uring'"}
	value, err := os.ReadFile("/sys/module/fuse/parameters/enable_uring")
	switch {
	case err != nil:
		f.Says, f.Mend = "this kernel has none", "Linux 6.14 or newer"
	case strings.TrimSpace(string(value)) == "Y" || strings.TrimSpace(string(value)) == "1":
		f.OK, f.Says, f.Mend = true, "switched on", ""
	default:
		f.Says = "switched off"
	}
	return f
}
