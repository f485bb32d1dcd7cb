package container

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/varvefs/varve/runner"
)

// Execution is what a supervisor is asked to run. Its descriptors are those of the
// program, in the order of Streams, which are 0 to 2.
type Execution struct {
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

// exec runs a program for a guest, and tells how it ended.
func (s *supervisor) exec(g *guest, x *Execution, files []*os.File) {
	defer CloseAll(files)
	id := map[string]string{"execID": NewID()}
	s.note("exec_create: "+strings.Join(x.Args, " "), id)
	process, err := s.execute(x, files)
	if err != nil {
		g.forgetTerminal()
		code, text := exitCodeOf(err), err.Error()
		if code == CodeFailed && !errors.Is(err, ErrNotRunning) {
			code = CodeNotExecutable // as docker, of a user or a directory that is not there
		} else if code != CodeFailed { // docker's words
			text = "OCI runtime exec failed: exec failed: unable to start container process: " + text + ": unknown"
		}
		_ = g.wire.Send(Reply{Event: EventFailed, Stage: code, Error: text}) // it may be gone
		return
	}
	s.note("exec_start: "+strings.Join(x.Args, " "), id)
	if console := process.Console(); console != nil {
		_ = g.wire.Send(Reply{Event: EventStarted, Files: 1}, console) // likewise
		defer func() { _ = console.Close() }()                         // the guest has it
	} else {
		_ = g.wire.Send(Reply{Event: EventStarted}) // likewise
	}
	CloseAll(files) // so that the guest's ends see the end of the program
	code, err := process.Wait()
	r := Reply{Event: EventEnded, Code: code}
	if err != nil {
		r.Error = err.Error()
	}
	id["exitCode"] = strconv.Itoa(code)
	s.note("exec_die", id)
	g.forgetTerminal()
	_ = g.wire.Send(r) // likewise
}

func (s *supervisor) execute(x *Execution, files []*os.File) (*runner.Process, error) {
	if len(x.Args) == 0 || len(x.Streams) != len(files) {
		return nil, errors.New("exec: the streams and the descriptors do not fit, or there is no program")
	}
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	cfg.Args, cfg.Env, cfg.Terminal = x.Args, MergeEnv(cfg.Env, x.Env), x.Terminal
	cfg.Columns, cfg.Rows = x.Columns, x.Rows
	if x.Terminal {
		cfg.Env = MergeEnv([]string{"TERM=xterm"}, cfg.Env)
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
		return nil, ErrNotRunning
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
