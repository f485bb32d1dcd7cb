package engine

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/cgroup"
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
	Network     string   // none, host or container:NAME; "" is host
	ReadOnly    bool     // the root
	Tmpfs       []string // TARGET[:OPTION,…]
	MountSpecs  []string // docker's --mount: type=bind|tmpfs,source=…,target=…
	ShmSize     int64    // bytes; 0 is docker's
	OOMScoreAdj int      // 0 is as ours
	Naming      Naming
	Devices     []string // docker's --device: SOURCE[:TARGET][:rwm]
	// The namespaces that may be shared, in docker's words: "" is docker's default.
	CgroupNS, IPC, PID, UTS string
	Userns                  string // podman's; host is the same as ""
}

// Sandbox is what the walls of a container are made of, worked out from an
// [Isolation] and from its image.
type Sandbox struct {
	Limits  cgroup.Limits   `json:"limits,omitzero"`
	Rlimits []runner.Rlimit `json:"rlimits,omitempty"`

	// Capabilities are CAP_… numbers; nil is docker's default ones.
	Capabilities    []int    `json:"capabilities,omitzero"`
	Privileged      bool     `json:"privileged,omitempty"`
	NoNewPrivileges bool     `json:"no_new_privileges,omitempty"`
	Unconfined      bool     `json:"unconfined,omitempty"` // no filter of system calls
	Unmasked        bool     `json:"unmasked,omitempty"`   // all of /proc and /sys, as --privileged has it
	Seccomp         string   `json:"seccomp,omitempty"`    // a profile; "" is docker's default one
	User            string   `json:"user,omitempty"`       // as asked for; "" is the image's
	Groups          []string `json:"groups,omitempty"`
	// What was asked for, for inspect.
	CapAdd      []string `json:"cap_add,omitempty"`
	CapDrop     []string `json:"cap_drop,omitempty"`
	SecurityOpt []string `json:"security_opt,omitempty"`

	Hostname    string         `json:"hostname,omitempty"` // as asked for
	NoNetwork   bool           `json:"no_network,omitempty"`
	HostNetwork bool           `json:"host_network,omitempty"` // asked for, and not only what there is
	Network     string         `json:"network,omitempty"`      // container:ID, or ""
	ReadOnly    bool           `json:"read_only,omitempty"`
	Tmpfs       []runner.Tmpfs `json:"tmpfs,omitempty"`
	Mounts      []runner.Mount `json:"mounts,omitempty"`       // of --mount
	TmpfsMounts []runner.Tmpfs `json:"tmpfs_mounts,omitempty"` // likewise
	ShmSize     int64          `json:"shm_size,omitempty"`
	OOMScoreAdj int            `json:"oom_score_adj,omitempty"`
	Naming      Naming         `json:"naming,omitzero"`

	Devices  []runner.Device `json:"devices,omitempty"`
	CgroupNS string          `json:"cgroupns,omitempty"` // host or private
	IPC      string          `json:"ipc,omitempty"`      // host, none, private, shareable or container:ID
	PID      string          `json:"pid,omitempty"`      // host, container:ID, or its own
	UTS      string          `json:"uts,omitempty"`      // host, or its own
	Userns   string          `json:"userns,omitempty"`   // as asked for
	// UIDs and GIDs are those of a user namespace of its own, empty for none.
	UIDs []runner.IDMap `json:"uids,omitempty"`
	GIDs []runner.IDMap `json:"gids,omitempty"`
	// keeper is who its user is if nobody says so, UID:GID, or "".
	keeper string
	// onHost says that the container of Network has this machine's network.
	onHost bool
}

// sandbox works out what can be without the image.
func (i Isolation) sandbox() (Sandbox, error) {
	box := Sandbox{Limits: i.Limits, Privileged: i.Privileged, Unconfined: i.Privileged, User: i.User, Groups: i.Groups}
	box.CapAdd, box.CapDrop, box.SecurityOpt = capNames(i.CapAdd), capNames(i.CapDrop), i.SecurityOpt
	box.Hostname, box.ReadOnly, box.ShmSize, box.OOMScoreAdj = i.Hostname, i.ReadOnly, i.ShmSize, i.OOMScoreAdj
	err := errors.Join(checkLimits(i.Limits), box.setCapabilities(i), box.setSecurity(i.SecurityOpt),
		box.setNetwork(i), box.setMounts(i))
	box.Naming = i.Naming
	err = errors.Join(err, box.Naming.check(box.NoNetwork), box.setNamespaces(i), box.setDevices(i.Devices))
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
func (b *Sandbox) setCapabilities(i Isolation) error {
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
func (b *Sandbox) setSecurity(list []string) error {
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
	cpus := runtime.NumCPU()
	switch {
	case l.Memory < 0 || l.Memory > 0 && l.Memory < leastMemory:
		return errors.New("minimum memory limit allowed is 6MB")
	case l.MemorySwap > 0 && l.Memory == 0:
		return errors.New("you should always set the Memory limit when using Memoryswap limit, see usage")
	case l.MemorySwap != -1 && l.MemorySwap != 0 && l.MemorySwap < l.Memory:
		return errors.New("minimum memoryswap limit should be larger than memory limit, see usage")
	case l.NanoCPUs < 0 || l.NanoCPUs > 0 && l.NanoCPUs < 1e7 || l.NanoCPUs > int64(cpus)*1e9:
		return fmt.Errorf("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", cpus, cpus)
	case l.CPUShares < 0:
		return errors.New("shares: invalid argument")
	case l.CPUShares == 1:
		return errors.New("the minimum allowed cpu-shares is 2")
	}
	list, err := parseCPUs(l.CPUSet)
	if err != nil {
		return fmt.Errorf("invalid value %s for cpuset cpus: invalid format: %s", l.CPUSet, l.CPUSet)
	}
	if !haveCPUs(list) {
		return fmt.Errorf("requested CPUs are not available - requested %s, available: 0-%d", l.CPUSet, cpus-1)
	}
	return nil
}

// parseCPUs reads "0-2,5"; "" is none.
func parseCPUs(text string) ([]int, error) {
	var list []int
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(low, 10, 12)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(high, 10, 12)
		}
		if err == nil && last < first {
			err = strconv.ErrRange
		}
		if err != nil {
			return nil, err
		}
		for cpu := first; cpu <= last; cpu++ {
			list = append(list, int(cpu))
		}
	}
	return list, nil
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

// apply tells the runner; missing are the controllers that can not limit this
// container, for which what binds a single process stands in.
func (b Sandbox) apply(cfg *runner.Config, missing []string) {
	cfg.Rlimits = slices.Clone(b.Rlimits)
	cfg.Capabilities, cfg.Privileged, cfg.NoNewPrivileges = b.Capabilities, b.Privileged, b.NoNewPrivileges
	cfg.Unmasked = b.Unmasked
	cfg.Unconfined, cfg.Seccomp = b.Unconfined, []byte(b.Seccomp)
	cfg.Groups, cfg.Devices = b.Groups, b.Devices
	cfg.UIDs, cfg.GIDs = b.UIDs, b.GIDs
	cfg.HostCgroups, cfg.HostIPC, cfg.HostUTS, cfg.NoShm = b.CgroupNS == "host", b.IPC == "host", b.UTS == "host", b.IPC == "none"
	cfg.ReadOnly, cfg.ShmSize, cfg.Tmpfs = b.ReadOnly, b.ShmSize, slices.Concat(b.Tmpfs, b.TmpfsMounts)
	cfg.Mounts = slices.Concat(cfg.Mounts, b.Mounts)
	cfg.HostPID, cfg.JoinedPID = b.PID == "host", donor(b.PID) != ""
	switch {
	case b.NoNetwork:
		cfg.Network = runner.NoNetwork
	case donor(b.Network) != "" && !b.onHost:
		cfg.Network = runner.JoinedNetwork
	}
	if b.OOMScoreAdj != 0 {
		cfg.OOMScoreAdj = &b.OOMScoreAdj
	}
	for _, controller := range missing {
		switch controller {
		case "memory":
			cfg.Rlimits = append(cfg.Rlimits, runner.Rlimit{Resource: unix.RLIMIT_DATA, Soft: uint64(b.Limits.Memory), Hard: uint64(b.Limits.Memory)})
		case "pids":
			cfg.Rlimits = append(cfg.Rlimits, runner.Rlimit{Resource: unix.RLIMIT_NPROC, Soft: uint64(b.Limits.Pids), Hard: uint64(b.Limits.Pids)})
		case "cpuset":
			cfg.CPUs, _ = parseCPUs(b.Limits.CPUSet) // it was parsed before
		}
	}
}

// applyUser says who the program is; the image's wish gives way where it can not be.
// A HOME that nobody asked for is the user's own.
func (s Spec) applyUser(cfg *runner.Config) {
	cfg.User, cfg.UserIsWish = cmp.Or(s.Config.User, s.Sandbox.keeper), s.Sandbox.User == ""
	if cfg.User != "" && !slices.ContainsFunc(s.Config.Env, isHome) {
		cfg.Env = slices.DeleteFunc(slices.Clone(cfg.Env), isHome)
	}
}

func isHome(variable string) bool { return strings.HasPrefix(variable, "HOME=") }

// lacking says which limits of the container can not hold here, nil if all can.
func (b Sandbox) lacking() error {
	if b.Limits == (cgroup.Limits{}) {
		return nil
	}
	host, err := cgroup.Find()
	if err != nil {
		return err
	}
	_, missing := host.Plan(groupPrefix+"plan", b.Limits)
	if len(missing) == 0 {
		return nil
	}
	instead := map[string]string{
		"memory": "-m binds each process by itself (RLIMIT_DATA)",
		"pids":   "--pids-limit counts the processes of each user inside (RLIMIT_NPROC)",
		"cpuset": "--cpuset-cpus can be undone inside",
		"cpu":    "--cpus and --cpu-shares do nothing",
	}
	var list []string
	for _, controller := range missing {
		list = append(list, instead[controller])
	}
	how := "systemd-run --user --scope -p Delegate=yes varve run …"
	if os.Geteuid() == 0 {
		how = "a writable /sys/fs/cgroup"
	}
	return fmt.Errorf("no control group with the controllers %s is to be had here, so %s; what mends it: %s",
		strings.Join(missing, ", "), strings.Join(list, ", "), how)
}
