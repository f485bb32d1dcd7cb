package engine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/cgroup"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/runner"
)

// Isolation is what docker's flags ask of the walls around a container. The zero
// value is docker's default.
type Isolation struct {
	Limits  cgroup.Limits
	Ulimits []string // NAME=SOFT[:HARD], docker's --ulimit

	CapAdd, CapDrop []string // names, with or without CAP_, or ALL
	Privileged      bool
	SecurityOpt     []string // seccomp=FILE, seccomp=unconfined, no-new-privileges
	User            string   // USER[:GROUP], names or numbers; "" is the image's
	Groups          []string // more groups

	Hostname    string   // "" is made of the container's ID
	Domainname  string   // of NIS; "" is none
	Sysctls     []string // NAME=VALUE, docker's --sysctl
	Network     string   // none, host or container:NAME; "" is host
	ReadOnly    bool     // the root
	Tmpfs       []string // TARGET[:OPTION,…]
	MountSpecs  []string // docker's --mount: type=bind|tmpfs,source=…,target=…
	ShmSize     int64    // bytes; 0 is docker's
	OOMScoreAdj int      // 0 is as ours
	Naming      container.Naming
	Devices     []string // docker's --device: SOURCE[:TARGET][:rwm]
	// The namespaces that may be shared, in docker's words: "" is docker's default.
	CgroupNS, IPC, PID, UTS string
	Userns                  string // podman's; host is the same as ""
}

// sandbox works out what can be without the image.
func (i Isolation) sandbox() (container.Sandbox, error) {
	box := container.Sandbox{Limits: i.Limits, Privileged: i.Privileged, Unconfined: i.Privileged, User: i.User, Groups: i.Groups}
	box.CapAdd, box.CapDrop, box.SecurityOpt = capNames(i.CapAdd), capNames(i.CapDrop), i.SecurityOpt
	box.Domainname = i.Domainname
	box.Hostname, box.ReadOnly, box.ShmSize, box.OOMScoreAdj = i.Hostname, i.ReadOnly, i.ShmSize, i.OOMScoreAdj
	err := errors.Join(checkLimits(i.Limits), setCapabilities(&box, i), setSecurity(&box, i.SecurityOpt),
		setNetwork(&box, i), setMounts(&box, i))
	box.Naming = i.Naming
	err = errors.Join(err, box.Naming.Check(box.NoNetwork), setNamespaces(&box, i), setSysctls(&box, i.Sysctls), setDevices(&box, i.Devices))
	if i.OOMScoreAdj < -1000 || i.OOMScoreAdj > 1000 {
		err = errors.Join(err, fmt.Errorf("invalid value %d, range for oom score adj is [-1000, 1000]", i.OOMScoreAdj))
	}
	for _, text := range i.Ulimits {
		limit, ulimitErr := parseUlimit(text)
		err = errors.Join(err, ulimitErr)
		box.Rlimits = append(box.Rlimits, limit)
	}
	return box, err
}

// setCapabilities works out docker's --cap-add, --cap-drop and --privileged: ALL in
// one of them is before single ones of the other, to add it before to drop it, and what
// is named in both is there.
func setCapabilities(b *container.Sandbox, i Isolation) error {
	if !i.Privileged && len(i.CapAdd) == 0 && len(i.CapDrop) == 0 {
		return nil
	}
	add, addAll, err := parseCapabilities("CapAdd", i.CapAdd)
	if err != nil {
		return err
	}
	drop, dropAll, err := parseCapabilities("CapDrop", i.CapDrop)
	if err != nil {
		return err
	}
	list := runner.DefaultCapabilities()
	switch {
	case i.Privileged:
		list, drop = runner.AllCapabilities(), nil
	case addAll:
		list, add = runner.AllCapabilities(), nil
	case dropAll:
		list = nil
	}
	list = slices.DeleteFunc(list, func(c int) bool { return slices.Contains(drop, c) })
	b.Capabilities = []int{} // none is not nil
	for _, c := range append(list, add...) {
		if !slices.Contains(b.Capabilities, c) {
			b.Capabilities = append(b.Capabilities, c)
		}
	}
	return nil
}

func parseCapabilities(flag string, names []string) (list []int, all bool, err error) {
	for _, name := range names {
		if strings.EqualFold(name, "ALL") {
			all = true
			continue
		}
		number, known := runner.CapabilityNumber(name)
		if !known {
			return nil, false, fmt.Errorf("invalid %s: unknown capability: %q: see capabilities(7) for their names", flag, capName(name))
		}
		list = append(list, number)
	}
	return list, all, nil
}

// capName is the name of a capability in full.
func capName(name string) string {
	name = strings.ToUpper(name)
	if name == "ALL" {
		return name
	}
	return "CAP_" + strings.TrimPrefix(name, "CAP_")
}

func capNames(names []string) (list []string) {
	for _, name := range names {
		list = append(list, capName(name))
	}
	return list
}

// setSecurity reads docker's --security-opt.
func setSecurity(b *container.Sandbox, list []string) error {
	for _, text := range list {
		name, value, has := strings.Cut(text, "=")
		if !has {
			name, value, has = strings.Cut(text, ":") // an old spelling
		}
		switch {
		case name == "no-new-privileges" && (!has || value == "true"):
			b.NoNewPrivileges = true
		case name == "no-new-privileges" && value == "false":
			b.NoNewPrivileges = false
		case name == "seccomp" && value == "unconfined":
			b.Unconfined = true
		case name == "seccomp" && value == "builtin":
			b.Unconfined = b.Privileged
		case name == "systempaths" && value == "unconfined":
			b.Unmasked = true
		case (name == "label" || name == "apparmor") && value != "":
			// Neither SELinux nor AppArmor is asked for anything here, as by docker on hosts without.
		case name == "seccomp" && value != "":
			profile, err := os.ReadFile(value)
			if err != nil {
				return fmt.Errorf("opening seccomp profile (%s) failed: %w", value, err)
			}
			b.Seccomp, b.Unconfined = string(profile), false
		default:
			return fmt.Errorf("invalid --security-opt: %q: there are seccomp=FILE, seccomp=unconfined, no-new-privileges, systempaths=unconfined, and label=… and apparmor=…, which do nothing", text)
		}
	}
	return nil
}

// leastMemory is docker's.
const leastMemory = 6 << 20

// checkLimits refuses what docker refuses, in its words, which it begins with capitals.
func checkLimits(l cgroup.Limits) error {
	switch {
	case l.Memory < 0 || l.Memory > 0 && l.Memory < leastMemory:
		return errors.New("minimum memory limit allowed is 6MB")
	case l.MemorySwap > 0 && l.Memory == 0:
		return errors.New("you should always set the Memory limit when using Memoryswap limit, see usage")
	case l.MemorySwap != -1 && l.MemorySwap != 0 && l.MemorySwap < l.Memory:
		return errors.New("minimum memoryswap limit should be larger than memory limit, see usage")
	case l.MemoryReservation > 0 && l.MemoryReservation < leastMemory:
		return errors.New("minimum memory reservation allowed is 6MB")
	case l.Memory > 0 && l.MemoryReservation > l.Memory:
		return errors.New("minimum memory limit can not be less than memory reservation limit, see usage")
	case l.MemorySwappiness != nil && (*l.MemorySwappiness < 0 || *l.MemorySwappiness > 100):
		return fmt.Errorf("invalid value: %d. Valid memory swappiness range is 0-100", *l.MemorySwappiness)
	}
	all := fmt.Sprintf("0-%d", runtime.NumCPU()-1)
	return errors.Join(checkCPUs(l), checkSet("cpus", "CPUs", l.CPUSet, all, haveCPUs), checkMems(l.CPUSetMems))
}

// checkCPUs is checkLimits of the time of processors.
func checkCPUs(l cgroup.Limits) error {
	cpus := runtime.NumCPU()
	switch {
	case l.NanoCPUs != 0 && l.CPUPeriod != 0:
		return errors.New("conflicting options: Nano CPUs and CPU Period cannot both be set")
	case l.NanoCPUs != 0 && l.CPUQuota != 0:
		return errors.New("conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case l.CPUPeriod != 0 && (l.CPUPeriod < 1e3 || l.CPUPeriod > 1e6):
		return errors.New("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case l.CPUQuota > 0 && l.CPUQuota < 1e3:
		return errors.New("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case l.NanoCPUs < 0 || l.NanoCPUs > 0 && l.NanoCPUs < 1e7 || l.NanoCPUs > int64(cpus)*1e9:
		return fmt.Errorf("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", cpus, cpus)
	case l.CPUShares < 0:
		return errors.New("shares: invalid argument")
	case l.CPUShares == 1:
		return errors.New("the minimum allowed cpu-shares is 2")
	}
	return nil
}

// checkSet refuses a list, as "0-2,5", that is none or has more than there is. flag and
// things are what docker calls it, available how it tells of those.
func checkSet(flag, things, text, available string, have func([]int) bool) error {
	list, err := container.ParseSet(text)
	if err != nil {
		return fmt.Errorf("invalid value %s for cpuset %s: invalid format: %s", text, flag, text)
	}
	if !have(list) {
		return fmt.Errorf("requested %s are not available - requested %s, available: %s", things, text, available)
	}
	return nil
}

// checkMems looks at memory nodes, of which this process may use some (proc(5)).
func checkMems(text string) error {
	if text == "" {
		return nil
	}
	status, _ := os.ReadFile("/proc/self/status") // without it the kernel says it later
	_, available, found := strings.Cut(string(status), "\nMems_allowed_list:\t")
	available, _, _ = strings.Cut(available, "\n")
	allowed, err := container.ParseSet(available)
	return checkSet("mems", "memory nodes", text, available, func(list []int) bool {
		return !found || err != nil || len(without(list, allowed)) == 0
	})
}

func without(list, allowed []int) []int {
	return slices.DeleteFunc(list, func(n int) bool { return slices.Contains(allowed, n) })
}

// haveCPUs tells whether this process may use all of them.
func haveCPUs(list []int) bool {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return true // the kernel says it later
	}
	return !slices.ContainsFunc(list, func(cpu int) bool { return !set.IsSet(cpu) })
}

// rlimits are docker's names of --ulimit.
func rlimits() map[string]int {
	return map[string]int{
		"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
		"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
		"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
		"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
		"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
	}
}

// CheckUlimit refuses a --ulimit that docker refuses.
func CheckUlimit(text string) error {
	_, err := parseUlimit(text)
	return err
}

// parseUlimit reads NAME=SOFT[:HARD], where -1 is no limit.
func parseUlimit(text string) (runner.Rlimit, error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return runner.Rlimit{}, fmt.Errorf("invalid ulimit argument: %s", text)
	}
	resource, known := rlimits()[name]
	if !known {
		return runner.Rlimit{}, fmt.Errorf("invalid ulimit type: %s", name)
	}
	low, high, both := strings.Cut(value, ":")
	if !both {
		high = low
	}
	if strings.Contains(high, ":") {
		return runner.Rlimit{}, fmt.Errorf("too many limit value arguments - %s, can only have up to two, `soft[:hard]`", value)
	}
	soft, err := strconv.ParseInt(low, 10, 64)
	if err != nil {
		return runner.Rlimit{}, err
	}
	hard, err := strconv.ParseInt(high, 10, 64)
	if err != nil {
		return runner.Rlimit{}, err
	}
	const rule = "ulimit soft limit must be less than or equal to hard limit: "
	switch {
	case hard == -1:
	case soft == -1:
		return runner.Rlimit{}, fmt.Errorf(rule+"soft: -1 (unlimited), hard: %d", hard)
	case soft > hard:
		return runner.Rlimit{}, fmt.Errorf(rule+"%d > %d", soft, hard)
	}
	return runner.Rlimit{Resource: resource, Soft: uint64(soft), Hard: uint64(hard)}, nil
}
