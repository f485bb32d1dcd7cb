package engine

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/cgroup"
	"github.com/varvefs/varve/internal/container"
)

// ContainerUsage is what a container has used, or uses now. All is zero of one that does
// not run.
type ContainerUsage struct {
	Asked    string // the name that it was found by
	ID, Name string
	Running  bool
	At       time.Time
	cgroup.Usage
	// Estimated are the figures of [cgroup.Usage.Missing], made of what its processes say.
	Estimated      []string
	Received, Sent uint64 // bytes of its network; 0 where that is this machine's
}

// Usages tells what containers use: those of the names, or else those that run, or all.
func (e *Engine) Usages(names []string, all bool) ([]ContainerUsage, error) {
	list, err := e.Containers()
	if err != nil {
		return nil, err
	}
	slices.Reverse(list) // the oldest first, so that lines stay where they are
	var out []ContainerUsage
	if len(names) == 0 {
		for _, c := range list {
			if all || c.State.Up() {
				u, err := usageOf(c.ID, c.Name, c.ID, c.State)
				if err != nil {
					return nil, err
				}
				out = append(out, u)
			}
		}
		return out, nil
	}
	for _, name := range names {
		c, state, err := e.findState(name)
		if err != nil {
			return nil, err
		}
		u, err := usageOf(c.ID, c.Name, name, state)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

func usageOf(id, name, asked string, state container.State) (ContainerUsage, error) {
	u := ContainerUsage{Asked: asked, ID: id, Name: name, At: time.Now()}
	if state.Status != container.Running {
		return u, nil
	}
	u.Running = true
	u.Usage = state.Group.Usage()
	if err := u.estimate(state.Init.Pid); err != nil {
		return u, err
	}
	if u.MemoryLimit == 0 || u.MemoryLimit > MachineMemory() {
		u.MemoryLimit = MachineMemory()
	}
	u.network(state.Init.Pid)
	return u, nil
}

// estimate makes the figures that no control group tells of what its processes say.
func (u *ContainerUsage) estimate(init int) error {
	u.Estimated = u.Missing
	if len(u.Missing) == 0 {
		return nil
	}
	list, err := processesOf(init)
	if err != nil {
		return err
	}
	for _, missing := range u.Missing {
		for i := range list {
			p := &list[i]
			switch missing {
			case "cpu":
				u.CPU += p.CPU + p.Waited
			case "memory":
				u.Memory += p.memory()
			case "pids":
				u.Pids += uint64(p.Threads)
			case "io":
				read, written := p.io()
				u.Read, u.Written = u.Read+read, u.Written+written
			}
		}
	}
	return nil
}

// memory is the process's part of what it shares with others, and all that it has alone, in
// bytes; where that is not told, all.
func (p *ContainerProcess) memory() uint64 {
	if kB, ok := p.line("smaps_rollup", "Pss:"); ok {
		return kB << 10
	}
	return p.Resident
}

// io is what the process has read from devices and written to them; 0 where others may
// not know.
func (p *ContainerProcess) io() (read, written uint64) {
	read, _ = p.line("io", "read_bytes:")
	written, _ = p.line("io", "write_bytes:")
	return read, written
}

// line finds the number behind a key in a file of /proc/PID.
func (p *ContainerProcess) line(file, key string) (uint64, bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.Pid, file))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(raw)) {
		if field := strings.Fields(line); len(field) > 1 && field[0] == key {
			n, err := strconv.ParseUint(field[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// network adds up the devices of a network that is the container's own.
func (u *ContainerUsage) network(init int) {
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", init))
	if err != nil {
		return // that of another user namespace; its figures are as those of no network
	}
	if ours, err := os.Readlink("/proc/self/ns/net"); err != nil || ours == theirs {
		return
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", init))
	if err != nil {
		return // it has ended
	}
	for line := range strings.Lines(string(raw)) {
		name, rest, has := strings.Cut(strings.TrimSpace(line), ":")
		field := strings.Fields(rest)
		if !has || name == "lo" || len(field) < 9 {
			continue
		}
		received, _ := strconv.ParseUint(field[0], 10, 64) // the kernel writes numbers
		sent, _ := strconv.ParseUint(field[8], 10, 64)     // likewise
		u.Received, u.Sent = u.Received+received, u.Sent+sent
	}
}

// MachineMemory is how much memory this machine has, in bytes.
func MachineMemory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil { // it can not fail
		return 0
	}
	return info.Totalram * uint64(info.Unit)
}
