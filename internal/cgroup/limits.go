package cgroup

import (
	"cmp"
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
	MemorySwap        int64 `json:"memory_swap,omitempty"`
	MemoryReservation int64 `json:"memory_reservation,omitempty"` // bytes that it keeps when memory is short
	// MemorySwappiness says how gladly its memory is swapped, 0 to 100; nil is as for all
	// others. It and OOMKillDisable, which has a process wait for memory in the place of
	// being killed, are of version 1 only.
	MemorySwappiness *int64 `json:"memory_swappiness,omitempty"`
	OOMKillDisable   bool   `json:"oom_kill_disable,omitempty"`
	NanoCPUs         int64  `json:"nano_cpus,omitempty"` // 1e9 is one processor
	// CPUQuota is how many microseconds of each CPUPeriod it may run, in the place of
	// NanoCPUs. Below 0 it is no limit; a period of 0 is docker's, a tenth of a second.
	CPUQuota   int64  `json:"cpu_quota,omitempty"`
	CPUPeriod  int64  `json:"cpu_period,omitempty"`
	CPUShares  int64  `json:"cpu_shares,omitempty"`  // a weight among others; 1024 is usual
	CPUSet     string `json:"cpuset,omitempty"`      // the processors it may run on, as "0-2,5"
	CPUSetMems string `json:"cpuset_mems,omitempty"` // the memory nodes that it may use, likewise
	Pids       int64  `json:"pids,omitempty"`        // processes and threads
}

// controllers are those that the limits need.
func (l Limits) controllers() []string {
	var list []string
	for _, c := range []struct {
		name   string
		wanted bool
	}{
		{"cpu", l.timed() || l.CPUShares > 0},
		{"cpuset", l.CPUSet != "" || l.CPUSetMems != ""},
		{"memory", l.Memory > 0 || l.MemoryReservation > 0 || l.MemorySwappiness != nil || l.OOMKillDisable},
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
	// Of what systemd has delegated it switches nothing off again, as it does in its own
	// groups whenever it looks after them.
	if len(list) > 0 && delegated(list[0]) && makeRoom(list[0], wanted) {
		return list[0], true
	}
	for _, dir := range list {
		if enable(dir, wanted) {
			return dir, true
		}
	}
	if len(list) > 0 && makeRoom(list[0], wanted) {
		return list[0], true
	}
	return "", false
}

// makeRoom switches the controllers on for the groups in dir, in which this process is.
// Nobody can have a limit beside processes that have none ("no internal processes"). If
// these are just this one and its family, as in a scope of systemd that was made for them,
// they make room. One may be born meanwhile.
func makeRoom(dir string, wanted []string) bool {
	if !bearing(dir) || len(without(wanted, read(dir, "cgroup.controllers"))) > 0 {
		return false
	}
	for range 5 {
		if !stepAside(dir) {
			return false
		}
		if enable(dir, wanted) {
			return true
		}
	}
	return false
}

// bearing tells whether processes can be born in new groups in dir. In a threaded tree
// they can not.
func bearing(dir string) bool {
	kind, err := word(dir, typeName) // the top of all has none
	return err != nil || kind == "domain"
}

// enable switches the controllers on for the groups in dir, and tells whether
// they are, and can have processes.
func enable(dir string, wanted []string) bool {
	if !bearing(dir) {
		return false
	}
	missing := without(wanted, read(dir, "cgroup.subtree_control"))
	if len(missing) == 0 {
		return true
	}
	if len(without(missing, read(dir, "cgroup.controllers"))) > 0 {
		return false
	}
	// Beside processes the kernel refuses memory; by cpu, cpuset and pids it makes the top
	// of a threaded tree of dir.
	if exists(dir, typeName) && len(read(dir, procsName)) > 0 {
		return false
	}
	return set(dir, "cgroup.subtree_control", "+"+strings.Join(missing, " +")) == nil
}

// stepAside moves the processes of dir to a group in it, if all are family.
func stepAside(dir string) bool {
	pids := read(dir, procsName)
	if !family(pids, os.Getpid(), delegated(dir)) {
		return false
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

// family tells whether the processes are none but me, my ancestors and my children. In a
// delegated group these are those of my farthest ancestor in it, who has the others of a
// pipeline, too.
func family(pids []string, me int, delegated bool) bool {
	list := make([]int, 0, len(pids))
	eldest := me
	for _, text := range pids {
		pid, err := strconv.Atoi(text)
		if err != nil {
			return false
		}
		if delegated && descends(eldest, pid) {
			eldest = pid
		}
		list = append(list, pid)
	}
	return !slices.ContainsFunc(list, func(pid int) bool { return !descends(me, pid) && !descends(pid, eldest) })
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

// defaultPeriod is docker's, in microseconds.
const defaultPeriod = 100_000

// timed tells whether something is said of a quota or a period.
func (l Limits) timed() bool { return l.NanoCPUs > 0 || l.CPUQuota > 0 || l.CPUPeriod > 0 }

// quota is how long a container may run in each period, in microseconds; none is the
// kernel's word for any time.
func (l Limits) quota(none string) (quota, period string) {
	q, p := l.CPUQuota, cmp.Or(l.CPUPeriod, defaultPeriod)
	if l.NanoCPUs > 0 {
		q = max(l.NanoCPUs*p/1e9, 1000)
	}
	if q <= 0 {
		return none, decimal(p)
	}
	return decimal(q), decimal(p)
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// applyV2 follows cgroup-v2.rst.
func (l Limits) applyV2(controller, dir string, write func(dir, name, value string)) {
	switch controller {
	case "memory":
		if l.Memory > 0 {
			write(dir, "memory.max", decimal(l.Memory))
		}
		if l.Memory > 0 && exists(dir, "memory.swap.max") {
			write(dir, "memory.swap.max", l.swap())
		}
		if l.MemoryReservation > 0 {
			write(dir, "memory.low", decimal(l.MemoryReservation))
		}
	case "cpu":
		if l.timed() {
			quota, period := l.quota("max")
			write(dir, "cpu.max", quota+" "+period)
		}
		if l.CPUShares > 0 { // 2 to 262144 becomes 1 to 10000, as in every runtime
			write(dir, "cpu.weight", decimal(1+(min(max(l.CPUShares, 2), 262144)-2)*9999/262142))
		}
	case "cpuset":
		if l.CPUSet != "" {
			write(dir, "cpuset.cpus", l.CPUSet)
		}
		if l.CPUSetMems != "" {
			write(dir, "cpuset.mems", l.CPUSetMems)
		}
	case "pids":
		write(dir, "pids.max", decimal(l.Pids))
	}
}

// swap is the limit of swap alone.
func (l Limits) swap() string {
	switch l.MemorySwap {
	case -1:
		return "max"
	case 0:
		return decimal(l.Memory)
	}
	return decimal(l.MemorySwap - l.Memory)
}

// applyV1 follows the pages in cgroup-v1/ of the kernel.
func (l Limits) applyV1(controller, dir string, write func(dir, name, value string)) {
	switch controller {
	case "memory":
		l.memoryV1(dir, write)
	case "cpu":
		if l.timed() {
			quota, period := l.quota("-1")
			write(dir, "cpu.cfs_period_us", period)
			write(dir, "cpu.cfs_quota_us", quota)
		}
		if l.CPUShares > 0 {
			write(dir, "cpu.shares", decimal(l.CPUShares))
		}
	case "cpuset":
		// A new group has neither processors nor memory nodes, and nobody gets in before it
		// has both.
		for name, asked := range map[string]string{"cpuset.cpus": l.CPUSet, "cpuset.mems": l.CPUSetMems} {
			above, _ := word(filepath.Dir(dir), name) // the write tells
			write(dir, name, cmp.Or(asked, above))
		}
	case "pids":
		write(dir, "pids.max", decimal(l.Pids))
	}
}

// memoryV1 is applyV1 of the controller memory.
func (l Limits) memoryV1(dir string, write func(dir, name, value string)) {
	if l.Memory > 0 {
		write(dir, "memory.limit_in_bytes", decimal(l.Memory))
	}
	if l.Memory > 0 && exists(dir, "memory.memsw.limit_in_bytes") {
		write(dir, "memory.memsw.limit_in_bytes", decimal(cmp.Or(l.MemorySwap, 2*l.Memory)))
	}
	if l.MemoryReservation > 0 {
		write(dir, "memory.soft_limit_in_bytes", decimal(l.MemoryReservation))
	}
	if l.MemorySwappiness != nil {
		write(dir, "memory.swappiness", decimal(*l.MemorySwappiness))
	}
	if l.OOMKillDisable {
		write(dir, "memory.oom_control", "1")
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
