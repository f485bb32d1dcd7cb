package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/runner"
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

// execution is what a supervisor is asked to run. Its descriptors are those of the
// program, in the order of Streams, which are 0 to 2.
type execution struct {
	Args       []string `json:"args"`
	Env        []string `json:"env,omitempty"`
	Workdir    string   `json:"workdir,omitempty"`
	Terminal   bool     `json:"terminal,omitempty"`
	User       string   `json:"user,omitempty"`
	Privileged bool     `json:"privileged,omitempty"`
	Streams    []int    `json:"streams,omitempty"`
	Columns    uint16   `json:"columns,omitempty"`
	Rows       uint16   `json:"rows,omitempty"`
}

// Exec runs one more program in a container that runs, with the streams of attach
// connected; nil is none. The supervisor of the container starts it, and tells how it
// ended: the session is as that of Run, but the program's.
func (e *Engine) Exec(name string, opt ExecOptions, attach *AttachOptions) (*Session, error) {
	if opt.Workdir != "" && !filepath.IsAbs(opt.Workdir) {
		return nil, &StartError{codeNotExecutable, fmt.Sprintf("the working directory '%s' is invalid, it needs to be an absolute path", opt.Workdir)}
	}
	c, state, err := e.findState(name)
	if err != nil {
		return nil, err
	}
	switch {
	case state.Status == Restarting:
		//lint:ignore ST1005 docker's words
		return nil, fmt.Errorf("Container %s is restarting, wait until the container is running", c.ID)
	case state.Paused():
		//lint:ignore ST1005 docker's words
		return nil, fmt.Errorf("Container %s is paused, unpause the container before exec", name)
	case !state.Up():
		return nil, fmt.Errorf("container %s is not running", c.ID)
	}
	s := newSession(e, c.ID)
	x := execution{Args: opt.Args, Env: opt.Env, Workdir: opt.Workdir, Terminal: opt.Terminal, User: opt.User, Privileged: opt.Privileged}
	files, ours, err := s.execStreams(&x, attach)
	if err != nil {
		return nil, err
	}
	r := request{Do: doExec, Exec: &x}
	s.wire, err = e.call(c.ID, r, r.restore(files, attach)...)
	closeAll(ours)
	if errors.Is(err, errNotRunning) {
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
func (s *Session) execStreams(x *execution, attach *AttachOptions) (files, ours []*os.File, err error) {
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
			closeAll(ours)
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

// exec runs a program for a guest, and tells how it ended.
func (s *supervisor) exec(g *guest, x *execution, files []*os.File) {
	defer closeAll(files)
	id := map[string]string{"execID": newID()}
	s.note("exec_create: "+strings.Join(x.Args, " "), id)
	process, err := s.execute(x, files)
	if err != nil {
		g.forgetTerminal()
		code, text := exitCodeOf(err), err.Error()
		if code == codeFailed && !errors.Is(err, errNotRunning) {
			code = codeNotExecutable // as docker, of a user or a directory that is not there
		} else if code != codeFailed { // docker's words
			text = "OCI runtime exec failed: exec failed: unable to start container process: " + text + ": unknown"
		}
		_ = g.wire.send(reply{Event: eventFailed, Stage: code, Error: text}) // it may be gone
		return
	}
	s.note("exec_start: "+strings.Join(x.Args, " "), id)
	if console := process.Console(); console != nil {
		_ = g.wire.send(reply{Event: eventStarted, Files: 1}, console) // likewise
		defer func() { _ = console.Close() }()                         // the guest has it
	} else {
		_ = g.wire.send(reply{Event: eventStarted}) // likewise
	}
	closeAll(files) // so that the guest's ends see the end of the program
	code, err := process.Wait()
	r := reply{Event: eventEnded, Code: code}
	if err != nil {
		r.Error = err.Error()
	}
	id["exitCode"] = strconv.Itoa(code)
	s.note("exec_die", id)
	g.forgetTerminal()
	_ = g.wire.send(r) // likewise
}

func (s *supervisor) execute(x *execution, files []*os.File) (*runner.Process, error) {
	if len(x.Args) == 0 || len(x.Streams) != len(files) {
		return nil, errors.New("exec: the streams and the descriptors do not fit, or there is no program")
	}
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	cfg.Args, cfg.Env, cfg.Terminal = x.Args, mergeEnv(cfg.Env, x.Env), x.Terminal
	cfg.Columns, cfg.Rows = x.Columns, x.Rows
	if x.Terminal {
		cfg.Env = mergeEnv([]string{"TERM=xterm"}, cfg.Env)
	}
	if x.Workdir != "" {
		cfg.Cwd = x.Workdir
	}
	for i, stream := range x.Streams {
		switch stream {
		case 0:
			cfg.Stdin = files[i]
		case 1:
			cfg.Stdout = files[i]
		case 2:
			cfg.Stderr = files[i]
		}
	}
	s.mu.Lock()
	process, group, missing := s.process, s.state.Group, s.missing
	s.mu.Unlock()
	if process == nil {
		return nil, errNotRunning
	}
	if err = s.confine(&cfg, group, missing); err != nil {
		return nil, err
	}
	if cfg.Group != nil {
		defer func() { _ = cfg.Group.Close() }() // a directory
	}
	if x.User != "" {
		cfg.User, cfg.UserIsWish = x.User, false
		if !slices.ContainsFunc(slices.Concat(s.spec.Config.Env, x.Env), isHome) {
			cfg.Env = slices.DeleteFunc(cfg.Env, isHome) // it is that user's own
		}
	}
	if x.Privileged {
		cfg.Capabilities, cfg.Unconfined = runner.AllCapabilities(), true
	}
	return process.Exec(cfg)
}
