package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/runner"
	"github.com/varvefs/varve/unionfs"
)

// The exit codes of a container that has no exit code of its own, docker's.
const (
	codeFailed        = 125 // varve failed
	codeNotExecutable = 126
	codeNotFound      = 127
)

// A supervisor is the process of one container, from its view to its end.
type supervisor struct {
	engine    *Engine
	spec      Spec
	state     State
	signals   chan os.Signal
	chain     chain
	server    *unionfs.Server
	unindexed bool     // the chain has no index
	missing   []string // controllers that can not limit the container
	process   *runner.Process
}

// Supervise is what the hidden verb does in the process that Run starts: it
// mounts the view, runs the container's program with this process's stdin, stdout
// and stderr, waits for its end, and takes everything down again. It returns the
// exit code of the program; the error, if not nil, is why there is none.
//
// The descriptor 3 is the gate: a byte comes when the container is recorded, the
// end when there will be none. With -t the descriptor 4 is a socket, over which
// the other side of the program's terminal is sent.
func (e *Engine) Supervise(id string) (code int, err error) {
	s := &supervisor{engine: e, signals: make(chan os.Signal, 32)}
	signal.Notify(s.signals, ForwardedSignals()...)
	if begin, err := waitAtGate(); err != nil || !begin {
		return codeFailed, err
	}
	unix.CloseOnExec(consoleFD) // nothing inside gets it
	if s.spec, err = e.readSpec(id); err != nil {
		return codeFailed, err
	}
	if err = s.begin(); err == nil {
		code, err = s.run()
	}
	if err != nil {
		code = exitCodeOf(err)
	}
	return code, errors.Join(err, s.end(code, err))
}

// waitAtGate tells whether there is a container to supervise.
func waitAtGate() (bool, error) {
	gate := os.NewFile(gateFD, "gate")
	_, err := io.ReadFull(gate, make([]byte, 1))
	if errors.Is(err, io.EOF) { // who started this process says why
		return false, gate.Close()
	}
	if err = errors.Join(err, gate.Close()); err != nil {
		return false, fmt.Errorf("wait at the gate: %w", err)
	}
	return true, nil
}

// exitCodeOf is the exit code that says why a program could not be run.
func exitCodeOf(err error) int {
	switch {
	case errors.Is(err, runner.ErrNotFound):
		return codeNotFound
	case errors.Is(err, runner.ErrNotExecutable):
		return codeNotExecutable
	}
	return codeFailed
}

// begin says in state.json who is at work.
func (s *supervisor) begin() error {
	start, err := runner.ProcessStartTime(os.Getpid())
	if err != nil {
		return err
	}
	s.state = State{Status: Created, Supervisor: Proc{os.Getpid(), start}, Group: s.planGroup()}
	return s.engine.writeState(s.spec.ID, s.state)
}

// run mounts the view and runs the program in it.
func (s *supervisor) run() (int, error) {
	if err := s.mount(); err != nil {
		return 0, err
	}
	if err := s.start(); err != nil {
		return 0, err
	}
	tuneForServing()
	if s.unindexed {
		s.engine.indexInBackground(s.spec.Layers)
	}
	stop := make(chan struct{})
	go s.relay(stop)
	code, err := s.process.Wait()
	close(stop)
	return code, err
}

// mount makes the view in this process's own mount namespace.
func (s *supervisor) mount() error {
	chain, err := s.engine.chain(s.spec.Layers)
	if err != nil {
		return err
	}
	shown, err := idsOf(s.spec)
	if err != nil {
		return err
	}
	dir := s.engine.store.ContainerDir(s.spec.ID)
	if err := dressRoot(filepath.Join(dir, upperName), chain.lowers[0]); err != nil {
		return fmt.Errorf("prepare the root directory: %w", err)
	}
	s.chain = chain
	unix.Umask(0) // the modes of new files are the program's, and come with its umask
	view := unionfs.Options{
		Upper: filepath.Join(dir, upperName), Work: filepath.Join(dir, workName),
		AllowOther: true, Suid: true, Dev: true, OverflowRoot: shown.overflow,
		NoRedirect: true, NoMetacopy: true, // an image layer can hold neither
	}
	if shown.single {
		if err := dressSingle(view.Upper, chain.lowers[0]); err != nil {
			return fmt.Errorf("prepare the root directory: %w", err)
		}
		keepOwners(&view)
	}
	s.server, s.unindexed, err = s.engine.mountChain(filepath.Join(dir, viewName), chain, view)
	return err
}

// start runs the program and sends its terminal to the foreground.
func (s *supervisor) start() error {
	cfg, err := s.config()
	if err != nil {
		return err
	}
	s.process, err = s.startInGroup(cfg)
	if err != nil {
		return err
	}
	s.state.Status, s.state.Started = Running, time.Now().UTC()
	s.state.Init = Proc{s.process.Pid(), s.process.StartTime()}
	err = s.engine.writeState(s.spec.ID, s.state)
	if console := s.process.Console(); err == nil && console != nil {
		err = errors.Join(sendConsole(console), console.Close())
	}
	if err != nil { // without these nobody could stop or see it
		_ = s.process.Signal(unix.SIGKILL) // it may have ended already
		_, waitErr := s.process.Wait()
		return errors.Join(err, waitErr)
	}
	return nil
}

func (s *supervisor) config() (runner.Config, error) {
	ns, err := runner.CurrentUserns()
	if err != nil {
		return runner.Config{}, err
	}
	cfg := runner.Config{
		Root: filepath.Join(s.engine.store.ContainerDir(s.spec.ID), viewName),
		Args: s.spec.Args, Env: s.spec.Env, Cwd: s.spec.Cwd, Hostname: s.spec.Hostname, Mounts: s.spec.Mounts,
		Terminal: s.spec.Terminal, Stdout: os.Stdout, Stderr: os.Stderr,
		Rootless: ns != nil, Single: ns != nil && ns.Single,
	}
	if s.spec.Stdin {
		cfg.Stdin = os.Stdin
	}
	return cfg, nil
}

// relay hands the signals that this process gets to the program.
func (s *supervisor) relay(stop <-chan struct{}) {
	for {
		select {
		case sig := <-s.signals:
			if n, ok := sig.(unix.Signal); ok {
				_ = s.process.Signal(n) // it may have ended
			}
		case <-stop:
			return
		}
	}
}

// end takes the view down and writes how it went; a container that was to be
// removed is. failure is why the program could not be run.
func (s *supervisor) end(code int, failure error) error {
	var errs []error
	if s.server != nil {
		errs = append(errs, s.server.Unmount())
	}
	errs = append(errs, s.removeGroup())
	if s.spec.Remove {
		return errors.Join(append(errs, s.engine.store.RemoveContainer(s.spec.ID))...)
	}
	if s.server != nil {
		upper := filepath.Join(s.engine.store.ContainerDir(s.spec.ID), upperName)
		errs = append(errs, tidyMountPoints(upper, s.chain.lowers))
	}
	if s.state.Status == Running {
		s.state.Status, s.state.Finished = Exited, time.Now().UTC()
	}
	s.state.ExitCode, s.state.Init = code, Proc{}
	if failure != nil {
		s.state.Error = failure.Error()
	}
	return errors.Join(append(errs, s.engine.writeState(s.spec.ID, s.state))...)
}

// The supervisor's ends of the gate, and of the socket to the foreground.
const (
	gateFD    = 3
	consoleFD = 4
)

// sendConsole passes a descriptor of the terminal to the foreground.
func sendConsole(console *os.File) error {
	conn, err := console.SyscallConn()
	if err != nil {
		return fmt.Errorf("send the terminal: %w", err)
	}
	var sent error
	err = conn.Control(func(fd uintptr) {
		sent = unix.Sendmsg(consoleFD, []byte{'c'}, unix.UnixRights(int(fd)), nil, unix.MSG_NOSIGNAL)
	})
	if err = errors.Join(err, sent, unix.Close(consoleFD)); err != nil {
		return fmt.Errorf("send the terminal: %w", err)
	}
	return nil
}
