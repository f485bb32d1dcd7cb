package cgroup

import (
	"strconv"
	"strings"
	"time"
)

// Usage is what the processes of a group have used, or use now.
type Usage struct {
	CPU time.Duration
	// Memory in bytes, without what the kernel keeps of files and could drop at once; the
	// limit is 0 where there is none.
	Memory, MemoryLimit uint64
	Pids                uint64 // processes and threads
	Read, Written       uint64 // bytes of block devices
	// Missing are the figures that no controller tells: cpu, memory, pids, io.
	Missing []string
}

// Usage reads the figures that the kernel keeps of the group.
func (g Group) Usage() Usage {
	var u Usage
	g.cpu(&u)
	g.memory(&u)
	g.pids(&u)
	g.io(&u)
	return u
}

func (u *Usage) miss(name string, found bool) {
	if !found {
		u.Missing = append(u.Missing, name)
	}
}

// unified is a file of the directory of version 2, if that is there.
func (g Group) unified(name string) (string, bool) {
	if g.Unified == "" {
		return "", false
	}
	text, err := word(g.Unified, name)
	return text, err == nil
}

// older is a file of a controller of version 1.
func (g Group) older(controller, name string) (string, bool) {
	if g.V1[controller] == "" {
		return "", false
	}
	text, err := word(g.V1[controller], name)
	return text, err == nil
}

func (g Group) cpu(u *Usage) {
	if text, ok := g.unified("cpu.stat"); ok {
		if n, ok := keyed(text, "usage_usec"); ok {
			u.CPU = time.Duration(n) * time.Microsecond
			return
		}
	}
	text, ok := g.older("cpuacct", "cpuacct.usage")
	if !ok {
		text, ok = g.older("cpu", "cpuacct.usage") // often mounted together
	}
	u.CPU = time.Duration(count(text))
	u.miss("cpu", ok)
}

func (g Group) memory(u *Usage) {
	if text, ok := g.unified("memory.current"); ok {
		stat, _ := g.unified("memory.stat")
		idle, _ := keyed(stat, "inactive_file")
		u.Memory = less(count(text), idle)
		text, _ = g.unified("memory.max")
		u.MemoryLimit = count(text) // "max" is no number
		return
	}
	text, ok := g.older("memory", "memory.usage_in_bytes")
	stat, _ := g.older("memory", "memory.stat")
	idle, _ := keyed(stat, "total_inactive_file")
	u.Memory = less(count(text), idle)
	text, _ = g.older("memory", "memory.limit_in_bytes")
	const none = 1 << 62 // about the largest that there can be
	if u.MemoryLimit = count(text); u.MemoryLimit >= none {
		u.MemoryLimit = 0
	}
	u.miss("memory", ok)
}

func (g Group) pids(u *Usage) {
	text, ok := g.unified("pids.current")
	if !ok {
		text, ok = g.older("pids", "pids.current")
	}
	u.Pids = count(text)
	u.miss("pids", ok)
}

// io reads what has gone to and from devices: "8:0 rbytes=1 wbytes=2 …" in version 2,
// "8:0 Read 1" in version 1.
func (g Group) io(u *Usage) {
	if text, ok := g.unified("io.stat"); ok {
		for field := range strings.FieldsSeq(text) {
			if n, is := strings.CutPrefix(field, "rbytes="); is {
				u.Read += count(n)
			} else if n, is := strings.CutPrefix(field, "wbytes="); is {
				u.Written += count(n)
			}
		}
		return
	}
	text, ok := g.older("blkio", "blkio.throttle.io_service_bytes")
	for line := range strings.Lines(text) {
		switch field := strings.Fields(line); {
		case len(field) != 3:
		case field[1] == "Read":
			u.Read += count(field[2])
		case field[1] == "Write":
			u.Written += count(field[2])
		}
	}
	u.miss("io", ok)
}

// keyed finds the number behind a key in lines of "key number".
func keyed(text, key string) (uint64, bool) {
	for line := range strings.Lines(text) {
		if rest, is := strings.CutPrefix(line, key+" "); is {
			return count(strings.TrimSpace(rest)), true
		}
	}
	return 0, false
}

func count(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 64) // the kernel writes numbers
	return n
}

func less(n, m uint64) uint64 {
	if m > n {
		return 0
	}
	return n - m
}
