package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/cgroup"
	"github.com/varvefs/varve/runner"
)

// Status is what a container is doing.
type Status string

// What a container can be doing.
const (
	Created Status = "created" // it has never run, or its program could not be started
	Running Status = "running"
	Exited  Status = "exited"
	// Restarting: its program has ended, and its supervisor will start it again.
	Restarting Status = "restarting"
)

// Killed is the exit code of a container whose supervisor ended without a word.
const Killed = 128 + int(unix.SIGKILL)

// Proc names one process and never a later one with the same number.
type Proc struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
}

// Alive tells whether the process is still there.
func (p Proc) Alive() bool {
	if p.Pid == 0 {
		return false
	}
	start, err := runner.ProcessStartTime(p.Pid)
	return err == nil && start == p.Start && !zombie(p.Pid)
}

// Kill ends the process if it is still the one.
func (p Proc) Kill() error {
	if !p.Alive() {
		return nil
	}
	if err := unix.Kill(p.Pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill process %d: %w", p.Pid, err)
	}
	return nil
}

// zombie tells whether the process has ended and waits for its parent only.
func zombie(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	end := len(raw) - 1
	for end > 0 && raw[end] != ')' {
		end--
	}
	return end+2 < len(raw) && (raw[end+2] == 'Z' || raw[end+2] == 'X')
}

// State is how a container fares. Its supervisor writes it; times are UTC.
type State struct {
	Status     Status    `json:"status"`
	Boot       string    `json:"boot,omitempty"` // of the kernel that the processes are of
	Supervisor Proc      `json:"supervisor"`
	Init       Proc      `json:"init"` // the container's process 1
	ExitCode   int       `json:"exit_code"`
	Error      string    `json:"error,omitempty"` // why it could not be run
	OOMKilled  bool      `json:"oom_killed,omitempty"`
	Started    time.Time `json:"started,omitzero"`
	Finished   time.Time `json:"finished,omitzero"`
	Restarts   int       `json:"restarts,omitempty"` // by its policy, since it was started
	Health     string    `json:"health,omitempty"`   // starting, healthy or unhealthy; "" if nobody checks
	// Stopped: a verb has asked it to end, and nobody has started it since.
	Stopped bool `json:"stopped,omitempty"`
	// Etc says when the files of EtcNames were made: one with another time was changed
	// by the program.
	Etc map[string]int64 `json:"etc,omitempty"`

	// Group is where the container's processes are; while it is Created, where
	// they will be, if that can be made.
	Group cgroup.Group `json:"group,omitzero"`
}

// Up tells whether the container is not at its end: its program runs, or will again.
func (s State) Up() bool {
	return s.Status == Running || s.Status == Restarting
}

// Word is docker's word for how the container fares.
func (s State) Word() string {
	if s.Paused() {
		return "paused"
	}
	return string(s.Status)
}

// BootID names this run of the kernel, "" where it can not be told.
func BootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(raw))
}

// ReadState returns how the container id fares now: a container whose supervisor
// has gone is not running, whatever it wrote last.
func (p Place) ReadState(id string) (State, error) {
	s := State{Status: Created}
	raw, err := os.ReadFile(filepath.Join(p.ContainerDir(id), StateName))
	if errors.Is(err, fs.ErrNotExist) { // the supervisor has not begun
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read the container's state: %w", err)
	}
	if json.Unmarshal(raw, &s) != nil { // torn by a power failure, which ended it, too
		return State{Status: Exited, ExitCode: Killed}, nil
	}
	if s.Boot != BootID() { // what has such a number now is something else
		s.Supervisor, s.Init = Proc{}, Proc{}
	}
	if s.Up() && !s.Supervisor.Alive() {
		s.Status, s.ExitCode = Exited, Killed
		if s.Health != "" {
			s.Health = healthUnhealthy
		}
	}
	if !s.Group.IsZero() && !s.Supervisor.Alive() {
		s.SweepGroup()
	}
	return s, nil
}

// Busy tells whether somebody is at work on the container: its supervisor, or a
// process 1 that outlived it.
func (s State) Busy() bool { return s.Supervisor.Alive() || s.Init.Alive() }

// WriteState puts the state in place whole or not at all. It is not synced: after
// a power failure no container runs, whatever is written here.
func (p Place) WriteState(id string, s State) error {
	return WriteState(p.ContainerDir(id), s)
}

// WriteState is Engine.WriteState for a container in the directory dir.
func WriteState(dir string, s State) error {
	s.Boot = BootID()
	raw, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write the container's state: %w", err)
	}
	name := filepath.Join(dir, StateName)
	if err = os.WriteFile(name+".new", raw, 0o600); err == nil {
		err = os.Rename(name+".new", name)
	}
	if errors.Is(err, unix.ENOSPC) {
		err = Overwrite(name, raw)
	}
	if err != nil {
		return fmt.Errorf("write the container's state: %w", err)
	}
	return nil
}

// Overwrite writes raw over a small file that is there, in one call and without
// new space; blanks fill what is left of the old, which JSON allows.
func Overwrite(name string, raw []byte) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if info, err := f.Stat(); err == nil && info.Size() > int64(len(raw)) {
		raw = append(raw, bytes.Repeat([]byte{' '}, int(info.Size())-len(raw))...)
	}
	_, err = f.WriteAt(raw, 0)
	_ = os.Remove(name + ".new") // what there was no room for, if it was made at all
	return errors.Join(err, f.Close())
}
