package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/cgroup"
	"github.com/varvefs/varve/internal/container"
)

// A ContainerProcess is one process of a container, as /proc shows it on this machine.
type ContainerProcess struct {
	Pid, Parent int
	UID, GID    uint32 // effective, this machine's
	State       byte   // R, S, D, …
	TTY         string // "pts/0", "?" for none
	CPU         time.Duration
	Waited      time.Duration // CPU of the children that have ended
	Started     time.Time
	Threads     int
	Nice        int
	Priority    int
	Virtual     uint64 // bytes
	Resident    uint64 // bytes
	Name        string // at most 15 bytes
	Args        []string
	Leader      bool // of its session
	Front       bool // of its terminal
}

// Processes lists the processes of a container that runs.
func (e *Engine) Processes(name string) ([]ContainerProcess, error) {
	c, state, err := e.findState(name)
	switch {
	case err != nil:
		return nil, err
	case state.Status == container.Restarting:
		//lint:ignore ST1005 docker's words
		return nil, fmt.Errorf("Container %s is restarting, wait until the container is running", c.ID)
	case !state.Up():
		return nil, fmt.Errorf("container %s is not running", c.ID)
	}
	return processesOf(state.Init.Pid)
}

// processesOf lists those of the container whose process 1 is init.
func processesOf(init int) ([]ContainerProcess, error) {
	pids, err := cgroup.Members(init)
	if err != nil {
		return nil, err
	}
	boot, err := bootTime()
	if err != nil {
		return nil, err
	}
	var list []ContainerProcess
	for _, pid := range pids {
		p, err := readProcess(pid, boot)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// clockTicks a second, in all that the kernel tells (USER_HZ).
const clockTicks = 100

func ticks(n int64) time.Duration { return time.Duration(n) * (time.Second / clockTicks) }

// bootTime is when this machine was started.
func bootTime() (time.Time, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(string(raw)) {
		if text, is := strings.CutPrefix(line, "btime "); is {
			seconds, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			return time.Unix(seconds, 0), err
		}
	}
	return time.Time{}, errors.New("/proc/stat has no btime")
}

// readProcess reads /proc/PID, see proc_pid_stat(5).
func readProcess(pid int, boot time.Time) (p ContainerProcess, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	raw, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return p, err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return p, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	open, end := bytes.IndexByte(raw, '('), bytes.LastIndexByte(raw, ')')
	if open < 0 || end < open {
		return p, fmt.Errorf("%s/stat has no name", dir)
	}
	field := strings.Fields(string(raw[end+1:])) // the first is the third, the state
	if len(field) < 22 {
		return p, fmt.Errorf("%s/stat has too few fields", dir)
	}
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(field[i-3], 10, 64) // the kernel writes numbers
		return n
	}
	p = ContainerProcess{
		Pid: pid, Parent: int(number(4)), UID: st.Uid, GID: st.Gid, State: field[0][0], TTY: ttyName(number(7)),
		CPU: ticks(number(14) + number(15)), Waited: ticks(number(16) + number(17)), Started: boot.Add(ticks(number(22))), Threads: int(number(20)),
		Nice: int(number(19)), Priority: int(number(18)),
		Virtual: uint64(number(23)), Resident: uint64(number(24)) * uint64(os.Getpagesize()),
		Name: string(raw[open+1 : end]), Leader: number(6) == int64(pid), Front: number(8) == number(5),
	}
	args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err == nil && len(args) > 0 {
		p.Args = strings.Split(strings.TrimSuffix(string(args), "\x00"), "\x00")
	}
	return p, nil // without arguments it has a name
}

// ttyName is the terminal of a device number, as ps writes it.
func ttyName(device int64) string {
	major, minor := unix.Major(uint64(device)), unix.Minor(uint64(device))
	switch {
	case device == 0:
		return "?"
	case major >= 136 && major < 144:
		return fmt.Sprintf("pts/%d", uint32(major-136)<<20|minor)
	case major == 4 && minor < 64:
		return fmt.Sprintf("tty%d", minor)
	case major == 4:
		return fmt.Sprintf("ttyS%d", minor-64)
	}
	return fmt.Sprintf("%d,%d", major, minor)
}
