package container

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/cgroup"
	"github.com/varvefs/varve/runner"
)

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

	Hostname   string `json:"hostname,omitempty"` // as asked for
	Domainname string `json:"domainname,omitempty"`
	// Sysctls are values of the kernel's by name, of namespaces that are the container's own.
	Sysctls     map[string]string `json:"sysctls,omitempty"`
	NoNetwork   bool              `json:"no_network,omitempty"`
	HostNetwork bool              `json:"host_network,omitempty"` // asked for, and not only what there is
	Network     string            `json:"network,omitempty"`      // container:ID, or ""
	ReadOnly    bool              `json:"read_only,omitempty"`
	Tmpfs       []runner.Tmpfs    `json:"tmpfs,omitempty"`
	Mounts      []runner.Mount    `json:"mounts,omitempty"`       // of --mount
	TmpfsMounts []runner.Tmpfs    `json:"tmpfs_mounts,omitempty"` // likewise
	ShmSize     int64             `json:"shm_size,omitempty"`
	OOMScoreAdj int               `json:"oom_score_adj,omitempty"`
	Naming      Naming            `json:"naming,omitzero"`

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

// ParseSet reads "0-2,5", numbers of processors or memory nodes; "" is none.
func ParseSet(text string) ([]int, error) {
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
		for n := first; n <= last; n++ {
			list = append(list, int(n))
		}
	}
	return list, nil
}

// apply tells the runner; missing are the controllers that can not limit this
// container, for which what binds a single process stands in.
func (b Sandbox) apply(cfg *runner.Config, missing []string) {
	cfg.Rlimits = slices.Clone(b.Rlimits)
	cfg.Capabilities, cfg.Privileged, cfg.NoNewPrivileges = b.Capabilities, b.Privileged, b.NoNewPrivileges
	cfg.Unmasked = b.Unmasked
	cfg.Unconfined, cfg.Seccomp = b.Unconfined, []byte(b.Seccomp)
	cfg.Groups, cfg.Devices = b.Groups, b.Devices
	cfg.Domainname, cfg.Sysctls = b.Domainname, b.Sysctls
	cfg.UIDs, cfg.GIDs = b.UIDs, b.GIDs
	cfg.HostCgroups, cfg.HostIPC, cfg.HostUTS, cfg.NoShm = b.CgroupNS == "host", b.IPC == "host", b.UTS == "host", b.IPC == "none"
	cfg.ReadOnly, cfg.ShmSize, cfg.Tmpfs = b.ReadOnly, b.ShmSize, slices.Concat(b.Tmpfs, b.TmpfsMounts)
	cfg.Mounts = slices.Concat(cfg.Mounts, b.Mounts)
	cfg.HostPID, cfg.JoinedPID = b.PID == "host", Donor(b.PID) != ""
	switch {
	case b.NoNetwork:
		cfg.Network = runner.NoNetwork
	case Donor(b.Network) != "" && !b.onHost:
		cfg.Network = runner.JoinedNetwork
	}
	if b.OOMScoreAdj != 0 {
		cfg.OOMScoreAdj = &b.OOMScoreAdj
	}
	for _, controller := range missing {
		switch controller {
		case "memory":
			if b.Limits.Memory == 0 { // something else of memory was asked for
				continue
			}
			cfg.Rlimits = append(cfg.Rlimits, runner.Rlimit{Resource: unix.RLIMIT_DATA, Soft: uint64(b.Limits.Memory), Hard: uint64(b.Limits.Memory)})
		case "pids":
			cfg.Rlimits = append(cfg.Rlimits, runner.Rlimit{Resource: unix.RLIMIT_NPROC, Soft: uint64(b.Limits.Pids), Hard: uint64(b.Limits.Pids)})
		case "cpuset":
			cfg.CPUs, _ = ParseSet(b.Limits.CPUSet) // it was parsed before
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

// Lacking says which limits of the container can not hold here, or may do harm, nil if
// there are none.
func (b Sandbox) Lacking() error {
	if b.Limits == (cgroup.Limits{}) {
		return nil
	}
	host, err := cgroup.Find()
	if err != nil {
		return err
	}
	group, missing := host.Plan(GroupPrefix+"plan", b.Limits)
	return errors.Join(discarded(b.Limits, group), lacking(b.Limits, missing), passing(group))
}

// passing says which limits systemd may take away again.
func passing(group cgroup.Group) error {
	list := group.Passing()
	if len(list) == 0 {
		return nil
	}
	return fmt.Errorf("systemd may switch off the controllers %s here when it looks after its groups, and the container's limits with them; what keeps them: %s",
		strings.Join(list, ", "), ScopeCommand())
}

// ScopeCommand is how this user has systemd delegate a control group.
func ScopeCommand() string {
	if os.Geteuid() == 0 {
		return "systemd-run --scope -p Delegate=yes varve run …"
	}
	return "systemd-run --user --scope -p Delegate=yes varve run …"
}

// discarded says, in docker's words, what version 2 has nothing for, and which limit is
// dangerous.
func discarded(l cgroup.Limits, group cgroup.Group) error {
	var list []error
	unified := slices.Contains(group.Controllers, "memory")
	if unified && l.MemorySwappiness != nil {
		list = append(list, errors.New("your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded"))
	}
	switch {
	case !l.OOMKillDisable:
	case unified:
		list = append(list, errors.New("your kernel does not support OomKillDisable. OomKillDisable discarded"))
	case l.Memory == 0 && group.V1["memory"] != "":
		list = append(list, errors.New("OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources"))
	}
	return errors.Join(list...)
}

// lacking says what becomes of the limits of controllers that are not to be had.
func lacking(l cgroup.Limits, missing []string) error {
	if len(missing) == 0 {
		return nil
	}
	var list []string
	for _, limit := range []struct {
		controller string
		asked      bool
		becomes    string
	}{
		{"cpu", l.NanoCPUs > 0, "--cpus does nothing"},
		{"cpu", l.CPUPeriod > 0, "--cpu-period does nothing"},
		{"cpu", l.CPUQuota > 0, "--cpu-quota does nothing"},
		{"cpu", l.CPUShares > 0, "--cpu-shares does nothing"},
		{"cpuset", l.CPUSet != "", "--cpuset-cpus can be undone inside"},
		{"cpuset", l.CPUSetMems != "", "--cpuset-mems does nothing"},
		{"memory", l.Memory > 0, "-m binds each process by itself (RLIMIT_DATA)"},
		{"memory", l.MemoryReservation > 0, "--memory-reservation does nothing"},
		{"memory", l.MemorySwappiness != nil, "--memory-swappiness does nothing"},
		{"memory", l.OOMKillDisable, "--oom-kill-disable does nothing"},
		{"pids", l.Pids > 0, "--pids-limit counts the processes of each user inside (RLIMIT_NPROC)"},
	} {
		if limit.asked && slices.Contains(missing, limit.controller) {
			list = append(list, limit.becomes)
		}
	}
	how := ScopeCommand()
	if os.Geteuid() == 0 {
		how = "a writable /sys/fs/cgroup"
	}
	return fmt.Errorf("no control group with the controllers %s is to be had here, so %s; what mends it: %s",
		strings.Join(missing, ", "), strings.Join(list, ", "), how)
}
