package engine

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/container"
)

// Stop stops a container and returns when it has ended. One that does not run is left
// alone.
func (e *Engine) Stop(name string, opt container.StopOptions) error {
	c, _, err := e.container(name)
	if err != nil {
		return err
	}
	err = e.stop(c.ID, opt)
	if errors.Is(err, container.ErrNotRunning) {
		return nil
	}
	if err == nil {
		e.NoteContainer(c.ID, "stop", nil)
	}
	return err
}

// stop is Stop, but one that does not run is ErrNotRunning.
func (e *Engine) stop(id string, opt container.StopOptions) error {
	w, err := e.call(id, container.Request{Do: container.DoStop, Stop: &opt})
	if err != nil {
		return err
	}
	defer w.Close()
	_, err = e.hearEnd(id, w)
	return err
}

// NoteRestart notes that a container was restarted.
func (e *Engine) NoteRestart(name string) {
	if c, _, err := e.findState(name); err == nil {
		e.NoteContainer(c.ID, "restart", nil)
	}
}

// Kill sends a signal to the program of a container that runs.
func (e *Engine) Kill(name string, sig unix.Signal) error {
	c, _, err := e.container(name)
	if err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", name, err)
	}
	w, err := e.call(c.ID, container.Request{Do: container.DoSignal, Signal: sig, Ack: true})
	if errors.Is(err, container.ErrNotRunning) {
		return fmt.Errorf("cannot kill container: %s: container %s is not running", name, c.ID)
	}
	if err != nil {
		return err
	}
	defer w.Close()
	if _, _, err = w.ReceiveReply(); err != nil || sig != unix.SIGKILL {
		return nil // it has ended meanwhile
	}
	if err := w.Send(container.Request{Do: container.DoWait}); err != nil { // likewise
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
	w, err := e.call(c.ID, container.Request{Do: container.DoWait})
	if errors.Is(err, container.ErrNotRunning) {
		state, err := e.ReadState(c.ID)
		return state.ExitCode, err
	}
	if err != nil {
		return 0, err
	}
	defer w.Close()
	return e.hearEnd(c.ID, w)
}

// callPatience is how long a supervisor may take until it listens, and a start until
// there is one.
const callPatience = 10 * time.Second

// call asks the supervisor of a container for something. One that has just been
// started is waited for. The wire is the caller's to close.
func (e *Engine) call(id string, r container.Request, files ...*os.File) (*container.Wire, error) {
	r.Files = len(files)
	for limit := time.Now().Add(callPatience); ; time.Sleep(5 * time.Millisecond) {
		w, err := e.dial(id)
		if err == nil {
			if err = w.Send(r, files...); err == nil {
				return w, nil
			}
			w.Close()
		}
		state, stateErr := e.ReadState(id)
		switch {
		case stateErr != nil:
			return nil, stateErr
		case !state.Supervisor.Alive() || state.Status == container.Exited:
			return nil, container.ErrNotRunning
		case time.Now().After(limit):
			return nil, fmt.Errorf("the supervisor of the container (process %d) does not answer: %w", state.Supervisor.Pid, err)
		}
	}
}

// dial connects to the supervisor of a container.
func (e *Engine) dial(id string) (*container.Wire, error) {
	dir, err := at.OpenDir(at.CWD, e.store.ContainerDir(id))
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(dir) }() // only read
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: container.SocketPath(dir)}); err != nil {
		_ = unix.Close(fd) // it was never connected
		return nil, os.NewSyscallError("connect", err)
	}
	return container.NewWire(os.NewFile(uintptr(fd), "control"))
}

// hearEnd waits for the exit code.
func (e *Engine) hearEnd(id string, w *container.Wire) (int, error) {
	for {
		r, _, err := w.ReceiveReply()
		switch {
		case err != nil: // killed; what is known of it is in its state
			return e.endOf(id)
		case r.Event == container.EventFailed:
			return 0, sentences(r.Error)
		case r.Event == container.EventEnded:
			return r.Code, nil
		}
	}
}

// endOf is the exit code of a container whose supervisor was killed, or has ended
// while it was called. Its last processes may need a moment.
func (e *Engine) endOf(id string) (int, error) {
	state, err := e.ReadState(id)
	for limit := time.Now().Add(patience); err == nil && state.Up() && time.Now().Before(limit); {
		time.Sleep(2 * time.Millisecond)
		state, err = e.ReadState(id)
	}
	return state.ExitCode, err
}
