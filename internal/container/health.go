package container

import (
	"encoding/json"
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

	"github.com/varvefs/varve/runner"
)

// The words for how well a container is, docker's.
const (
	healthStarting  = "starting"
	healthHealthy   = "healthy"
	healthUnhealthy = "unhealthy"
	HealthNone      = "none"
)

// HealthName is the file of a container's last checks.
const HealthName = "health.json"

// Bounds of what is kept, docker's.
const (
	healthResults = 5
	healthOutput  = 4096
)

// Health is how well a container is, and how its last checks went.
type Health struct {
	Status        string
	FailingStreak int
	Log           []HealthResult
}

// A HealthResult is one check: an exit code of 0 is well, -1 means that the check was not
// done in time, or could not be started.
type HealthResult struct {
	Start, End time.Time
	ExitCode   int
	Output     string
}

// withDefaults fills in docker's.
func (h Healthcheck) withDefaults() Healthcheck {
	for _, d := range []struct {
		to       *time.Duration
		standard time.Duration
	}{{&h.Interval, 30 * time.Second}, {&h.Timeout, 30 * time.Second}, {&h.StartInterval, 5 * time.Second}} {
		if *d.to <= 0 {
			*d.to = d.standard
		}
	}
	if h.Retries <= 0 {
		h.Retries = 3
	}
	return h
}

// command is what is run in the container, nil for no check. shell is the image's.
func (h *Healthcheck) command(shell []string) []string {
	if h == nil || len(h.Test) == 0 {
		return nil
	}
	switch rest := h.Test[1:]; {
	case h.Test[0] == "CMD" && len(rest) > 0:
		return rest
	case h.Test[0] == "CMD-SHELL" && len(rest) > 0:
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return append(slices.Clone(shell), strings.Join(rest, " "))
	}
	return nil // NONE, and what this varve does not know
}

// hasHealth tells whether the container is to be checked.
func (s *Spec) hasHealth() bool { return s.Config.Healthcheck.command(s.Config.Shell) != nil }

// A doctor checks one run of a program.
type doctor struct {
	supervisor *supervisor
	process    *runner.Process
	check      Healthcheck
	args       []string
	began      time.Time
	health     Health
}

// watchHealth checks the program again and again until it has ended. It is not called for a
// container without a check.
func (s *supervisor) watchHealth(process *runner.Process, began time.Time) {
	d := &doctor{
		supervisor: s, process: process, check: s.spec.Config.Healthcheck.withDefaults(), began: began,
		args: s.spec.Config.Healthcheck.command(s.spec.Config.Shell), health: Health{Status: healthStarting},
	}
	d.write()
	for {
		select {
		case <-process.Done():
			return
		case <-time.After(d.interval()):
		}
		s.mu.Lock()
		state := s.state
		s.mu.Unlock()
		if state.Paused() { // nothing could answer
			continue
		}
		result, ok := d.probe()
		if !ok { // it has ended meanwhile
			return
		}
		d.note(result)
	}
}

// interval is how long the next check may wait.
func (d *doctor) interval() time.Duration {
	if d.health.Status == healthStarting && time.Since(d.began) < d.check.StartPeriod {
		return d.check.StartInterval
	}
	return d.check.Interval
}

// probe runs the check once; false means that the container has ended.
func (d *doctor) probe() (HealthResult, bool) {
	r := HealthResult{Start: time.Now(), ExitCode: -1}
	output, err := d.run(&r)
	r.End = time.Now()
	select {
	case <-d.process.Done():
		return r, false
	default:
	}
	r.Output = output
	if err != nil {
		r.Output = err.Error()
	}
	return r, true
}

// run runs the check and puts its exit code into r. What it says is read as far as it is kept.
func (d *doctor) run(r *HealthResult) (string, error) {
	in, out, err := outputPipe()
	if err != nil {
		return "", err
	}
	defer func() { _ = in.Close() }() // only read
	x := &Execution{Args: d.args, Streams: []int{1, 2}}
	process, err := d.supervisor.execute(x, []*os.File{out, out})
	_ = out.Close() // the program has it
	if err != nil {
		return "", err
	}
	said := make(chan string, 1)
	go func() { said <- readOutput(in) }()
	limit := time.AfterFunc(d.check.Timeout, func() { _ = process.Signal(unix.SIGKILL) }) // it may have ended
	code, err := process.Wait()
	if !limit.Stop() {
		return "", fmt.Errorf("Health check exceeded timeout (%v)", d.check.Timeout)
	}
	if err != nil {
		return "", err
	}
	r.ExitCode = code
	// A process that it has left behind may keep the pipe open.
	_ = in.SetReadDeadline(time.Now().Add(outputGrace)) // a pipe has deadlines
	return <-said, nil
}

// outputGrace is how long after its end the output of a check may take to be read.
const outputGrace = 100 * time.Millisecond

// outputPipe is a pipe whose end for the program blocks, and whose end here does not.
func outputPipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// readOutput reads to the end, and returns as much as is kept.
func readOutput(r *os.File) string {
	var kept []byte
	buf := make([]byte, healthOutput)
	for {
		n, err := r.Read(buf)
		kept = append(kept, buf[:min(n, healthOutput-len(kept))]...)
		if err != nil {
			return string(kept)
		}
	}
}

// note takes a result into account, by docker's rules.
func (d *doctor) note(r HealthResult) {
	before := d.health.Status
	d.health.Log = append(d.health.Log, r)
	d.health.Log = d.health.Log[max(0, len(d.health.Log)-healthResults):]
	switch {
	case r.ExitCode == 0:
		d.health.FailingStreak, d.health.Status = 0, healthHealthy
	case before == healthStarting && r.Start.Sub(d.began) < d.check.StartPeriod: // it counts for nothing
	default:
		if d.health.FailingStreak++; d.health.FailingStreak >= d.check.Retries {
			d.health.Status = healthUnhealthy
		}
	}
	d.write()
	if d.health.Status == before {
		return
	}
	s := d.supervisor
	s.mu.Lock()
	if s.process == d.process {
		s.state.Health = d.health.Status
		s.keepStateLocked()
	}
	s.mu.Unlock()
	s.note("health_status: "+d.health.Status, nil)
}

// write puts the last results where inspect finds them. What can not be written, as on a
// full disk, is not: the program matters more.
func (d *doctor) write() {
	raw, err := json.Marshal(d.health)
	if err == nil {
		name := filepath.Join(d.supervisor.place.ContainerDir(d.supervisor.spec.ID), HealthName)
		if err = os.WriteFile(name+".new", raw, 0o600); err == nil {
			err = os.Rename(name+".new", name)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // the container may be removed
		fmt.Fprintln(os.Stderr, "varve:", err)
	}
}

// Option reads one option of HEALTHCHECK, as in "--interval=5s".
func (h *Healthcheck) Option(text string) error {
	name, value, _ := strings.Cut(strings.TrimPrefix(text, "--"), "=")
	if name == "retries" {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return fmt.Errorf("--retries must be a number, not %q", value)
		}
		h.Retries = n
		return nil
	}
	field := map[string]*time.Duration{
		"interval": &h.Interval, "timeout": &h.Timeout, "start-period": &h.StartPeriod, "start-interval": &h.StartInterval,
	}[name]
	if field == nil {
		return fmt.Errorf("unknown flag: --%s", name)
	}
	d, err := time.ParseDuration(value)
	if err != nil || d != 0 && d < time.Millisecond {
		return fmt.Errorf("interval %s cannot be less than 1ms, and is written as in 30s", text)
	}
	*field = d
	return nil
}
