package engine

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/runner"
)

// Run is the foreground's handle on a container that has been started. Wait has
// to be called once; the other methods may be called from other goroutines.
type Run struct {
	// ID is the container's.
	ID string
	// Warning says what the container has to do without, nil if nothing.
	Warning error

	child   *runner.Child
	gate    *os.File   // one byte in it lets the supervisor begin
	console *os.File   // our end of the socket, nil without a terminal
	created chan error // what remains of the creation
}

// ForwardedSignals are those that go on to the program of a container when its
// foreground or its supervisor gets them.
func ForwardedSignals() []os.Signal {
	return []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGWINCH, unix.SIGCONT, unix.SIGALRM}
}

// Start creates a container and starts its supervisor, which runs the program
// with this process's stdin (if asked for), stdout and stderr. The record of the
// container is durable before the program runs. To save time the supervisor is
// started first, and waits at a gate for the record.
func (e *Engine) Start(opt CreateOptions) (*Run, error) {
	spec, err := newSpec(opt)
	if err != nil {
		return nil, err
	}
	r := &Run{ID: spec.ID, created: make(chan error, 1)}
	if err := r.startSupervisor(e.Root(), spec); err != nil {
		return nil, fmt.Errorf("start the supervisor: %w", err)
	}
	ready := make(chan struct{})
	go func() { r.created <- e.create(spec, opt, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-r.created:
		if err != nil {
			return nil, r.giveUp(err)
		}
		r.created <- nil // both were ready at once
	}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// open lets the supervisor begin. One that has ended tells why by its exit code.
func (r *Run) open() error {
	_, err := r.gate.Write([]byte{1})
	err = errors.Join(err, r.gate.Close())
	if err != nil && !errors.Is(err, unix.EPIPE) {
		return r.giveUp(fmt.Errorf("let the supervisor begin: %w", err))
	}
	return nil
}

// giveUp ends the supervisor, which sees its gate closed.
func (r *Run) giveUp(cause error) error {
	_ = r.gate.Close() // nothing was written, or it is closed already
	if r.console != nil {
		_ = r.console.Close() // nothing comes
	}
	_, err := r.child.Wait()
	return errors.Join(cause, err)
}

// startSupervisor starts it, to wait at its gate.
func (r *Run) startSupervisor(root string, spec Spec) (err error) {
	self := runner.Self{
		Args:          []string{"varve", "supervise", spec.ID},
		Env:           environ(root),
		Stdout:        os.Stdout,
		Stderr:        os.Stderr,
		Setsid:        true, // the terminal's Ctrl-C is ours, and we hand it on
		PrivateMounts: true,
	}
	if spec.Stdin {
		self.Stdin = os.Stdin
	}
	if self.Userns, err = runner.PlanUserns(); err != nil {
		return err
	}
	lacking := spec.Sandbox.lacking()
	defer func() {
		for _, f := range self.Files {
			_ = f.Close() // the child has it, or there is none
		}
	}()
	if err := r.addFiles(&self, spec.Terminal); err != nil {
		return err
	}
	if r.child, err = runner.StartSelf(self); err != nil {
		return err
	}
	r.Warning = errors.Join(r.child.Fallback, lacking)
	return nil
}

// addFiles makes the gate (descriptor 3 of the supervisor) and, for a terminal,
// the socket over which it comes (descriptor 4).
func (r *Run) addFiles(self *runner.Self, terminal bool) error {
	theirs, gate, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	r.gate, self.Files = gate, append(self.Files, theirs)
	if !terminal {
		return nil
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socketpair: %w", err)
	}
	r.console = os.NewFile(uintptr(fds[0]), "console-socket")
	self.Files = append(self.Files, os.NewFile(uintptr(fds[1]), "console-socket"))
	return nil
}

// Console waits for the container's terminal and returns the side that a person
// sits at. It is nil without an error if the container ended before it had one,
// or was not asked to have one. The caller closes it.
func (r *Run) Console() (*os.File, error) {
	if r.console == nil {
		return nil, nil
	}
	defer func() { _ = r.console.Close() }() // one message, and it was read
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, oobn, err := 0, 0, error(unix.EINTR)
	for err == unix.EINTR {
		n, oobn, _, _, err = unix.Recvmsg(int(r.console.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err == nil && n == 0 || err == unix.ECONNRESET {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	return receivedFile(oob[:oobn])
}

func receivedFile(oob []byte) (*os.File, error) {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(list) != 1 {
		return nil, fmt.Errorf("receive the terminal: %d control messages: %w", len(list), err)
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receive the terminal: %d descriptors: %w", len(fds), err)
	}
	return os.NewFile(uintptr(fds[0]), "console"), nil
}

// Signal sends sig to the container's program, through its supervisor. A
// container that has ended is os.ErrProcessDone.
func (r *Run) Signal(sig unix.Signal) error { return r.child.Signal(sig) }

// Wait returns when the container has ended and everything of it is taken down:
// its exit code, or 125 to 127 if its supervisor has told why it could not run.
func (r *Run) Wait() (int, error) {
	code, err := r.child.Wait()
	return code, errors.Join(err, <-r.created)
}
