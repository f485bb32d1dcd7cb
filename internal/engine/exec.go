package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/container"
)

// ExecOptions are what `varve exec` asks for. Args is required.
type ExecOptions struct {
	Args     []string
	Env      []string // NAME=value, over the container's own
	Workdir  string   // absolute; "" for the container's own
	Terminal bool
	User     string // USER[:GROUP]; "" for the container's own

	Privileged bool
}

// Exec runs one more program in a container that runs, with the streams of attach
// connected; nil is none. The supervisor of the container starts it, and tells how it
// ended: the session is as that of Run, but the program's.
func (e *Engine) Exec(name string, opt ExecOptions, attach *AttachOptions) (*Session, error) {
	if opt.Workdir != "" && !filepath.IsAbs(opt.Workdir) {
		return nil, &StartError{container.CodeNotExecutable, fmt.Sprintf("the working directory '%s' is invalid, it needs to be an absolute path", opt.Workdir)}
	}
	c, state, err := e.findState(name)
	if err != nil {
		return nil, err
	}
	switch {
	case state.Status == container.Restarting:
		//lint:ignore ST1005 docker's words
		return nil, fmt.Errorf("Container %s is restarting, wait until the container is running", c.ID)
	case state.Paused():
		//lint:ignore ST1005 docker's words
		return nil, fmt.Errorf("Container %s is paused, unpause the container before exec", name)
	case !state.Up():
		return nil, fmt.Errorf("container %s is not running", c.ID)
	}
	s := newSession(e, c.ID)
	x := container.Execution{Args: opt.Args, Env: opt.Env, Workdir: opt.Workdir, Terminal: opt.Terminal, User: opt.User, Privileged: opt.Privileged}
	files, ours, err := s.execStreams(&x, attach)
	if err != nil {
		return nil, err
	}
	r := container.Request{Do: container.DoExec, Exec: &x}
	s.wire, err = e.call(c.ID, r, restoreWith(&r, files, attach)...)
	container.CloseAll(ours)
	if errors.Is(err, container.ErrNotRunning) {
		err = fmt.Errorf("container %s is not running", c.ID)
	}
	if err != nil {
		return nil, err
	}
	go s.listen()
	return s, nil
}

// execStreams makes the descriptors of the program, pipes all of them, so that nothing
// else of this machine is inside. Those for what it says are served here: a process that
// it leaves behind does not keep the caller's pipe open.
func (s *Session) execStreams(x *container.Execution, attach *AttachOptions) (files, ours []*os.File, err error) {
	if attach == nil {
		return nil, nil, nil
	}
	x.Columns, x.Rows = attach.Columns, attach.Rows
	if x.Terminal {
		if attach.Stdout != nil { // the terminal itself comes back
			s.screen = attach.Stdout
		}
		return nil, nil, nil
	}
	for stream, f := range []*os.File{attach.Stdin, attach.Stdout, attach.Stderr} {
		if f == nil {
			continue
		}
		x.Streams = append(x.Streams, stream)
		if stream == 0 && isPipe(f) {
			files = append(files, f)
			continue
		}
		r, w, err := blockingPipe()
		if err != nil {
			container.CloseAll(ours)
			return nil, nil, err
		}
		if stream == 0 {
			s.setInput([]*os.File{w})
			files, ours = append(files, r), append(ours, r)
			continue
		}
		files, ours = append(files, w), append(ours, w)
		s.carry(f, r)
	}
	return files, ours, nil
}

// blockingPipe is os.Pipe for a program: its end has to block, and the flags of a
// descriptor that is passed on are those it was made with.
func blockingPipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}
