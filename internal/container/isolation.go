package container

import (
	"cmp"
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

// ParseCPUs reads "0-2,5"; "" is none.
func ParseCPUs(text string) ([]int, error) {
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
			cfg.Rlimits = append(cfg.Rlimits, runner.Rlimit{Resource: unix.RLIMIT_DATA, Soft: uint64(b.Limits.Memory), Hard: uint64(b.Limits.Memory)})
		case "pids":
			cfg.Rlimits = append(cfg.Rlimits, runner.Rlimit{Resource: unix.RLIMIT_NPROC, Soft: uint64(b.Limits.Pids), Hard: uint64(b.Limits.Pids)})
		case "cpuset":
			cfg.CPUs, _ = ParseCPUs(b.Limits.CPUSet) // it was parsed before
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

// Lacking says which limits of the container can not hold here, nil if all can.
func (b Sandbox) Lacking() error {
	if b.Limits == (cgroup.Limits{}) {
		return nil
	}
	host, err := cgroup.Find()
	if err != nil {
		return err
	}
	_, missing := host.Plan(GroupPrefix+"plan", b.Limits)
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
