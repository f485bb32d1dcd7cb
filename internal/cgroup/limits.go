package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits are what a container may use at most. Zero is no limit.
type Limits struct {
	Memory int64 `json:"memory,omitempty"` // bytes
	// MemorySwap is memory and swap together, in bytes: 0 is twice Memory, as
	// docker has it, and -1 any amount of swap.
	MemorySwap int64  `json:"memory_swap,omitempty"`
	NanoCPUs   int64  `json:"nano_cpus,omitempty"`  // 1e9 is one processor
	CPUShares  int64  `json:"cpu_shares,omitempty"` // a weight among others; 1024 is usual
	CPUSet     string `json:"cpuset,omitempty"`     // the processors it may run on, as "0-2,5"
	Pids       int64  `json:"pids,omitempty"`       // processes and threads
}

// controllers are those that the limits need.
func (l Limits) controllers() []string {
	var list []string
	for _, c := range []struct {
		name   string
		wanted bool
	}{
		{"cpu", l.NanoCPUs > 0 || l.CPUShares > 0},
		{"cpuset", l.CPUSet != ""},
		{"memory", l.Memory > 0},
		{"pids", l.Pids > 0},
	} {
		if c.wanted {
			list = append(list, c.name)
		}
	}
	return list
}

// place finds a directory of version 2 in which groups can have the wanted
// controllers, and switches them on there: the nearest to this process.
func (t tree) place(wanted []string) (string, bool) {
	list := t.above()
	for _, dir := range list {
		if enable(dir, wanted) {
			return dir, true
		}
	}
	// Nobody can have a limit beside processes that have none ("no internal
	// processes"). If these are just this one and those that have started it, as
	// in a scope of systemd that was made for them, they make room.
	if len(list) > 0 && stepAside(list[0]) && enable(list[0], wanted) {
		return list[0], true
	}
	return "", false
}

// enable switches the controllers on for the groups in dir, and tells whether
// they are.
func enable(dir string, wanted []string) bool {
	missing := without(wanted, read(dir, "cgroup.subtree_control"))
	if len(missing) == 0 {
		return true
	}
	if len(without(missing, read(dir, "cgroup.controllers"))) > 0 {
		return false
	}
	return set(dir, "cgroup.subtree_control", "+"+strings.Join(missing, " +")) == nil
}

// stepAside moves the processes of dir to a group in it, if there are none but
// this process and its ancestors.
func stepAside(dir string) bool {
	pids := read(dir, procsName)
	for _, text := range pids {
		pid, err := strconv.Atoi(text)
		if err != nil || !descends(os.Getpid(), pid) {
			return false
		}
	}
	aside := filepath.Join(dir, "varve-callers")
	if makeDir(aside) != nil {
		return false
	}
	for _, pid := range pids {
		if err := set(aside, procsName, pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return false
		}
	}
	return true
}

// read returns the words of a small file, none if it can not be read.
func read(dir, name string) []string {
	text, _ := word(dir, name) // as said
	return strings.Fields(text)
}

// without lists the words that are not in known.
func without(words, known []string) []string {
	return slices.DeleteFunc(slices.Clone(words), func(w string) bool { return slices.Contains(known, w) })
}

// apply writes the limits to the directories of the group that are for them.
func (g Group) apply(l Limits) error {
	var errs []error
	write := func(dir, name, value string) {
		if err := set(dir, name, value); err != nil {
			errs = append(errs, fmt.Errorf("limit the container: %w", err))
		}
	}
	for _, controller := range l.controllers() {
		if dir := g.V1[controller]; dir != "" {
			l.applyV1(controller, dir, write)
		} else if g.Unified != "" && slices.Contains(g.Controllers, controller) {
			l.applyV2(controller, g.Unified, write)
		}
	}
	return errors.Join(errs...)
}

// period is docker's, of which a container gets NanoCPUs, in microseconds.
const period = 100_000

func (l Limits) quota() string { return strconv.FormatInt(max(l.NanoCPUs*period/1e9, 1000), 10) }

// applyV2 follows cgroup-v2.rst.
func (l Limits) applyV2(controller, dir string, write func(dir, name, value string)) {
	switch controller {
	case "memory":
		write(dir, "memory.max", strconv.FormatInt(l.Memory, 10))
		if exists(dir, "memory.swap.max") {
			write(dir, "memory.swap.max", l.swap())
		}
	case "cpu":
		if l.NanoCPUs > 0 {
			write(dir, "cpu.max", l.quota()+" "+strconv.Itoa(period))
		}
		if l.CPUShares > 0 { // 2 to 262144 becomes 1 to 10000, as in every runtime
			write(dir, "cpu.weight", strconv.FormatInt(1+(min(max(l.CPUShares, 2), 262144)-2)*9999/262142, 10))
		}
	case "cpuset":
		write(dir, "cpuset.cpus", l.CPUSet)
	case "pids":
		write(dir, "pids.max", strconv.FormatInt(l.Pids, 10))
	}
}

// swap is the limit of swap alone.
func (l Limits) swap() string {
	switch l.MemorySwap {
	case -1:
		return "max"
	case 0:
		return strconv.FormatInt(l.Memory, 10)
	}
	return strconv.FormatInt(l.MemorySwap-l.Memory, 10)
}

// applyV1 follows the pages in cgroup-v1/ of the kernel.
func (l Limits) applyV1(controller, dir string, write func(dir, name, value string)) {
	switch controller {
	case "memory":
		write(dir, "memory.limit_in_bytes", strconv.FormatInt(l.Memory, 10))
		if exists(dir, "memory.memsw.limit_in_bytes") {
			total := l.MemorySwap
			if total == 0 {
				total = 2 * l.Memory
			}
			write(dir, "memory.memsw.limit_in_bytes", strconv.FormatInt(total, 10))
		}
	case "cpu":
		if l.NanoCPUs > 0 {
			write(dir, "cpu.cfs_period_us", strconv.Itoa(period))
			write(dir, "cpu.cfs_quota_us", l.quota())
		}
		if l.CPUShares > 0 {
			write(dir, "cpu.shares", strconv.FormatInt(l.CPUShares, 10))
		}
	case "cpuset":
		// A new group has no memory nodes, and nobody gets in before it has.
		if mems, err := word(filepath.Dir(dir), "cpuset.mems"); err == nil {
			write(dir, "cpuset.mems", mems)
		}
		write(dir, "cpuset.cpus", l.CPUSet)
	case "pids":
		write(dir, "pids.max", strconv.FormatInt(l.Pids, 10))
	}
}

func exists(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return !errors.Is(err, fs.ErrNotExist)
}

// OOMKilled tells whether the kernel has killed a process of the group because of
// its limit of memory.
func (g Group) OOMKilled() bool {
	var lines []string
	if g.Unified != "" {
		text, _ := word(g.Unified, "memory.events") // not there without the controller
		lines = append(lines, strings.Split(text, "\n")...)
	}
	if dir := g.V1["memory"]; dir != "" {
		text, _ := word(dir, "memory.oom_control")
		lines = append(lines, strings.Split(text, "\n")...)
	}
	for _, line := range lines {
		if count, is := strings.CutPrefix(line, "oom_kill "); is && count != "0" {
			return true
		}
	}
	return false
}
