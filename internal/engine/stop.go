package engine

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// StopOptions say how a container is to be stopped; the zero value is how it wants
// to be.
type StopOptions struct {
	Signal  unix.Signal // 0 is the container's own
	Timeout *int        // seconds until SIGKILL, negative for never; nil is the container's own
}

// Stop stops a container and returns when it has ended. One that does not run is left
// alone.
func (e *Engine) Stop(name string, opt StopOptions) error {
	c, _, err := e.container(name)
	if err != nil {
		return err
	}
	err = e.stop(c.ID, opt)
	if errors.Is(err, errNotRunning) {
		return nil
	}
	if err == nil {
		e.noteContainer(c.ID, "stop", nil)
	}
	return err
}

// stop is Stop, but one that does not run is errNotRunning.
func (e *Engine) stop(id string, opt StopOptions) error {
	w, err := e.call(id, request{Do: doStop, Stop: &opt})
	if err != nil {
		return err
	}
	defer w.close()
	_, err = e.hearEnd(id, w)
	return err
}

// NoteRestart notes that a container was restarted.
func (e *Engine) NoteRestart(name string) {
	if c, _, err := e.findState(name); err == nil {
		e.noteContainer(c.ID, "restart", nil)
	}
}

// Kill sends a signal to the program of a container that runs.
func (e *Engine) Kill(name string, sig unix.Signal) error {
	c, _, err := e.container(name)
	if err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", name, err)
	}
	w, err := e.call(c.ID, request{Do: doSignal, Signal: sig, Ack: true})
	if errors.Is(err, errNotRunning) {
		return fmt.Errorf("cannot kill container: %s: container %s is not running", name, c.ID)
	}
	if err != nil {
		return err
	}
	defer w.close()
	if _, _, err = w.receiveReply(); err != nil || sig != unix.SIGKILL {
		return nil // it has ended meanwhile
	}
	if err := w.send(request{Do: doWait}); err != nil { // likewise
		_, err = e.endOf(c.ID)
		return err
	}
	_, err = e.hearEnd(c.ID, w)
	return err
}

// WaitFor returns the exit code of a container, when it has ended.
func (e *Engine) WaitFor(name string) (int, error) {
	c, _, err := e.container(name)
	if err != nil {
		return 0, err
	}
	w, err := e.call(c.ID, request{Do: doWait})
	if errors.Is(err, errNotRunning) {
		state, err := e.readState(c.ID)
		return state.ExitCode, err
	}
	if err != nil {
		return 0, err
	}
	defer w.close()
	return e.hearEnd(c.ID, w)
}

// errNotRunning: there is no supervisor to speak with.
var errNotRunning = errors.New("the container is not running")

// callPatience is how long a supervisor may take until it listens, and a start until
// there is one.
const callPatience = 10 * time.Second

// call asks the supervisor of a container for something. One that has just been
// started is waited for. The wire is the caller's to close.
func (e *Engine) call(id string, r request, files ...*os.File) (*wire, error) {
	r.Files = len(files)
	for limit := time.Now().Add(callPatience); ; time.Sleep(5 * time.Millisecond) {
		w, err := e.dial(id)
		if err == nil {
			if err = w.send(r, files...); err == nil {
				return w, nil
			}
			w.close()
		}
		state, stateErr := e.readState(id)
		switch {
		case stateErr != nil:
			return nil, stateErr
		case !state.Supervisor.alive() || state.Status == Exited:
			return nil, errNotRunning
		case time.Now().After(limit):
			return nil, fmt.Errorf("the supervisor of the container (process %d) does not answer: %w", state.Supervisor.Pid, err)
		}
	}
}

// dial connects to the supervisor of a container.
func (e *Engine) dial(id string) (*wire, error) {
	dir, err := at.OpenDir(at.CWD, e.store.ContainerDir(id))
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(dir) }() // only read
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socketPath(dir)}); err != nil {
		_ = unix.Close(fd) // it was never connected
		return nil, os.NewSyscallError("connect", err)
	}
	return newWire(os.NewFile(uintptr(fd), "control"))
}

// hearEnd waits for the exit code.
func (e *Engine) hearEnd(id string, w *wire) (int, error) {
	for {
		r, _, err := w.receiveReply()
		switch {
		case err != nil: // killed; what is known of it is in its state
			return e.endOf(id)
		case r.Event == eventFailed:
			return 0, sentences(r.Error)
		case r.Event == eventEnded:
			return r.Code, nil
		}
	}
}

// endOf is the exit code of a container whose supervisor was killed, or has ended
// while it was called. Its last processes may need a moment.
func (e *Engine) endOf(id string) (int, error) {
	state, err := e.readState(id)
	for limit := time.Now().Add(patience); err == nil && state.Up() && time.Now().Before(limit); {
		time.Sleep(2 * time.Millisecond)
		state, err = e.readState(id)
	}
	return state.ExitCode, err
}

// ParseSignal reads a signal as kill(1) does: a number, or a name with or without SIG.
func ParseSignal(text string) (unix.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil {
		if n <= 0 || n > 64 {
			return 0, fmt.Errorf("invalid signal: %s", text)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	if sig, ok := realTimeSignal(name); ok {
		return sig, nil
	}
	return 0, fmt.Errorf("invalid signal: %s", text)
}

// realTimeSignal reads SIGRTMIN+n and SIGRTMAX-n, as the C library numbers them.
func realTimeSignal(name string) (unix.Signal, bool) {
	const least, most = 34, 64
	for _, base := range []struct {
		name  string
		first int
		sign  string
	}{{"SIGRTMIN", least, "+"}, {"SIGRTMAX", most, "-"}} {
		rest, ok := strings.CutPrefix(name, base.name)
		if !ok {
			continue
		}
		if rest == "" {
			return unix.Signal(base.first), true
		}
		n, err := strconv.Atoi(rest)
		if n += base.first; err == nil && strings.HasPrefix(rest, base.sign) && n >= least && n <= most {
			return unix.Signal(n), true
		}
	}
	return 0, false
}
