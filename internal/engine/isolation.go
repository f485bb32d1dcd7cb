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
	"github.com/varvefs/varve/runner"
)

// Isolation is what docker's flags ask of the walls around a container. The zero
// value is docker's default.
type Isolation struct {
	Limits  cgroup.Limits
	Ulimits []string // NAME=SOFT[:HARD], docker's --ulimit
}

// Sandbox is what the walls of a container are made of, worked out from an
// [Isolation] and from its image.
type Sandbox struct {
	Limits  cgroup.Limits   `json:"limits,omitzero"`
	Rlimits []runner.Rlimit `json:"rlimits,omitempty"`
}

// sandbox works out what can be without the image.
func (i Isolation) sandbox() (Sandbox, error) {
	box := Sandbox{Limits: i.Limits}
	err := checkLimits(i.Limits)
	for _, text := range i.Ulimits {
		limit, ulimitErr := parseUlimit(text)
		err = errors.Join(err, ulimitErr)
		box.Rlimits = append(box.Rlimits, limit)
	}
	return box, err
}

// leastMemory is docker's.
const leastMemory = 6 << 20

// checkLimits refuses what docker refuses, in its words, which it begins with capitals.
func checkLimits(l cgroup.Limits) error {
	cpus := runtime.NumCPU()
	switch {
	case l.Memory < 0 || l.Memory > 0 && l.Memory < leastMemory:
		return errors.New("minimum memory limit allowed is 6MB")
	case l.MemorySwap != 0 && l.Memory == 0:
		return errors.New("you should always set the Memory limit when using Memoryswap limit, see usage")
	case l.MemorySwap != -1 && l.MemorySwap != 0 && l.MemorySwap < l.Memory:
		return errors.New("minimum memoryswap limit should be larger than memory limit, see usage")
	case l.NanoCPUs < 0 || l.NanoCPUs > int64(cpus)*1e9:
		return fmt.Errorf("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", cpus, cpus)
	}
	list, err := parseCPUs(l.CPUSet)
	if err != nil {
		return fmt.Errorf("invalid value %s for cpuset cpus", l.CPUSet)
	}
	if len(list) > 0 && !haveCPUs(list) {
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

// haveCPUs tells whether this process may use one of them, at least.
func haveCPUs(list []int) bool {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return true // the kernel says it later
	}
	return slices.ContainsFunc(list, set.IsSet)
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
	soft, err := strconv.ParseInt(low, 10, 64)
	if err != nil {
		return runner.Rlimit{}, fmt.Errorf("invalid ulimit argument: %s", text)
	}
	hard, err := strconv.ParseInt(high, 10, 64)
	if err != nil {
		return runner.Rlimit{}, fmt.Errorf("invalid ulimit argument: %s", text)
	}
	if hard != -1 && (soft > hard || soft == -1) {
		return runner.Rlimit{}, fmt.Errorf("ulimit soft limit must be less than or equal to hard limit: %d > %d", soft, hard)
	}
	return runner.Rlimit{Resource: resource, Soft: uint64(soft), Hard: uint64(hard)}, nil
}

// apply tells the runner; missing are the controllers that can not limit this
// container, for which what binds a single process stands in.
func (b Sandbox) apply(cfg *runner.Config, missing []string) {
	cfg.Rlimits = slices.Clone(b.Rlimits)
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
