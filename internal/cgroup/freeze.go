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
	"time"

	"golang.org/x/sys/unix"
)

// ErrSignals means that a container was stopped with SIGSTOP, as it has no group
// that could be frozen: its programs can notice, and what they start meanwhile
// from outside is not stopped.
var ErrSignals = errors.New("there is no control group to freeze here, so every process got SIGSTOP")

// Freeze stops every process of the container whose process 1 is init, and
// returns when all have stopped. Where there is no group that can be frozen each
// gets SIGSTOP, and the error is [ErrSignals], which is no failure. After any
// other error, or when limit is over, they run as before.
func (g Group) Freeze(init int, limit time.Duration) error {
	end := time.Now().Add(limit)
	how, err := error(nil), error(nil)
	switch {
	case g.Unified != "":
		err = freezeUnified(g.Unified, end)
	case g.Freezer != "":
		err = freezeV1(g.Freezer, init, end)
	default:
		how, err = ErrSignals, stopAll(init, end)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("freeze the container: %w", err), g.Thaw(init))
	}
	return how
}

// Thaw lets the processes that Freeze has stopped go on. It does nothing where
// none is stopped.
func (g Group) Thaw(init int) error {
	var err error
	switch {
	case g.Unified != "":
		err = set(g.Unified, "cgroup.freeze", "0")
	case g.Freezer != "":
		if err = set(g.Freezer, "freezer.state", "THAWED"); errors.Is(err, fs.ErrNotExist) {
			err = nil // never frozen
		}
	default:
		err = signalAll(init, unix.SIGCONT)
	}
	if err != nil {
		return fmt.Errorf("thaw the container: %w", err)
	}
	return nil
}

// Frozen tells whether Freeze has stopped the container whose process 1 is init.
func (g Group) Frozen(init int) bool {
	var value string
	switch {
	case g.Unified != "":
		value, _ = word(g.Unified, "cgroup.freeze") // there is none: not frozen
	case g.Freezer != "":
		value, _ = word(g.Freezer, "freezer.state")
	default:
		return stateOf(init) == 'T'
	}
	return value != "" && value != "0" && value != "THAWED"
}

var errNotFrozen = errors.New("a process did not stop in time")

// freezeUnified freezes a group of version 2, and waits for the kernel's word on
// it (cgroup-v2.rst, "cgroup.events").
func freezeUnified(dir string, end time.Time) error {
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return err
	}
	defer func() { _ = events.Close() }() // only read
	if err := set(dir, "cgroup.freeze", "1"); err != nil {
		return err
	}
	buf := make([]byte, 256)
	for time.Now().Before(end) {
		n, err := events.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return err
		}
		if strings.Contains(string(buf[:n]), "frozen 1") {
			return nil
		}
		// A change of the file is POLLPRI; the limit is for what was missed.
		poll := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(poll, 20); err != nil && err != unix.EINTR {
			return err
		}
	}
	return errNotFrozen
}

// freezeV1 makes a freezer of version 1 and brings all processes of the container
// into it. It is frozen first, so who is in it starts no others. A process that
// has called vfork keeps it from being frozen as long as its child is; so every
// now and then they are let go on for a moment.
func freezeV1(dir string, init int, end time.Time) error {
	if err := makeDir(dir); err != nil {
		return err
	}
	const rounds = 20 // of a millisecond
	for round := 0; time.Now().Before(end); round++ {
		if round > 0 && round%rounds == 0 {
			if err := set(dir, "freezer.state", "THAWED"); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
		if err := set(dir, "freezer.state", "FROZEN"); err != nil {
			return err
		}
		moved, err := moveAll(dir, init)
		if err != nil {
			return err
		}
		state, err := word(dir, "freezer.state")
		if err != nil {
			return err
		}
		if moved == 0 && state == "FROZEN" {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return errNotFrozen
}

// moveAll moves the processes of the container to the group dir, and says how
// many were not there yet.
func moveAll(dir string, init int) (int, error) {
	inside, err := word(dir, procsName)
	if err != nil {
		return 0, err
	}
	there := map[string]bool{}
	for pid := range strings.FieldsSeq(inside) {
		there[pid] = true
	}
	list, err := Members(init)
	if err != nil {
		return 0, err
	}
	moved := 0
	for _, pid := range list {
		name := strconv.Itoa(pid)
		if there[name] || zombie(stateOf(pid)) {
			continue
		}
		if err := set(dir, procsName, name); err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, err
		}
		moved++
	}
	return moved, nil
}

// callTime is how long a process that has got SIGSTOP may stay in a system call
// that no signal ends before it counts as stopped, too: it is not back in its
// program before the stop. One that has called vfork never leaves it if its child
// has stopped.
const callTime = 100 * time.Millisecond

// stopAll sends SIGSTOP to all processes of the container until none is found
// that has not stopped.
func stopAll(init int, end time.Time) error {
	for begin := time.Now(); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err := signalAll(init, unix.SIGSTOP); err != nil {
			return err
		}
		list, err := Members(init)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return os.ErrProcessDone
		}
		standing := "Tt"
		if time.Since(begin) > callTime {
			standing += "D"
		}
		if !slices.ContainsFunc(list, func(pid int) bool { return !stopped(pid, standing) }) {
			return nil
		}
	}
	return errNotFrozen
}

func signalAll(init int, sig unix.Signal) error {
	list, err := Members(init)
	if err != nil {
		return err
	}
	for _, pid := range list {
		if sig == unix.SIGSTOP && stopped(pid, "Tt") {
			continue
		}
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			return fmt.Errorf("signal %d to process %d: %w", sig, pid, err)
		}
	}
	return nil
}

// Members lists the processes of the container whose process 1 is init, as far as they
// can be seen from here.
func Members(init int) ([]int, error) {
	// Who is not process 1 shares its ids with others, but no mounts. From another user
	// namespace only the table of parents can be seen; and a namespace that is ours, too,
	// would make members of us all.
	kind := "pid"
	if !isFirst(init) {
		kind = "mnt"
	}
	ns := namespace(kind, init)
	if ns == namespace(kind, os.Getpid()) {
		ns = ""
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("the processes of the container: %w", err)
	}
	var list []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ns != "" && namespace(kind, pid) == ns || descends(pid, init) {
			list = append(list, pid)
		}
	}
	return list, nil
}

// namespace names one of a process, "" where it has gone or may not be looked at.
func namespace(kind string, pid int) string {
	ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind)) // as said
	return ns
}

// isFirst tells whether a process is process 1 of its namespace.
func isFirst(pid int) bool {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // it may have gone
	_, ids, _ := strings.Cut(string(status), "\nNSpid:")
	ids, _, _ = strings.Cut(ids, "\n")
	field := strings.Fields(ids)
	return len(field) > 0 && field[len(field)-1] == "1"
}

// descends tells whether pid is init or descends from it, as all do that a
// container starts, those of its own inner containers, too.
func descends(pid, init int) bool {
	for range 1 << 10 { // deeper than any, and an end where the table changes meanwhile
		if pid == init {
			return true
		}
		field := statOf(pid)
		if len(field) < 2 {
			return false
		}
		pid, _ = strconv.Atoi(field[1]) // the kernel writes numbers
		if pid <= 1 {
			return false
		}
	}
	return false
}

// stopped tells whether all threads of the process are in one of the states (proc(5))
// standing, or have ended.
func stopped(pid int, standing string) bool {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return true // it has gone
	}
	for _, task := range tasks {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, task.Name()))
		if err != nil {
			continue
		}
		if s := state(fields(raw)); strings.IndexByte(standing, s) < 0 && !zombie(s) {
			return false
		}
	}
	return true
}

func zombie(state byte) bool { return state == 'Z' || state == 'X' || state == 0 }

func stateOf(pid int) byte { return state(statOf(pid)) }

func state(field []string) byte {
	if len(field) == 0 {
		return 0
	}
	return field[0][0]
}

// statOf are the fields of /proc/PID/stat behind the name: state, parent, ….
func statOf(pid int) []string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil { // it has gone
		return nil
	}
	return fields(raw)
}

func fields(stat []byte) []string {
	_, behind, _ := strings.Cut(string(stat), "(")
	return strings.Fields(behind[strings.LastIndexByte(behind, ')')+1:])
}
