package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/runner"
)

// hold has the programs of the container stand still for a guest. That the supervisor does
// so, and not the verb that asks, has two reasons: it may signal and freeze them whoever
// they are, and if the verb is killed they go on.
func (s *supervisor) hold(g *guest) error {
	s.holding.Lock()
	defer s.holding.Unlock()
	r := reply{Event: eventDone}
	if s.holders == 0 {
		s.mu.Lock()
		state := s.state
		s.mu.Unlock()
		if state.Paused() {
			return errors.New("it was paused meanwhile")
		}
		warning, err := state.freeze()
		if err != nil {
			return err
		}
		if err := s.flush(); err != nil {
			return errors.Join(err, state.thaw()) // as if it had not begun
		}
		if warning != nil {
			r.Error = warning.Error()
		}
	}
	if !g.holds {
		g.holds = true
		s.holders++
	}
	return g.wire.send(r)
}

// flush has all that programs have written reach the upper, also through shared mappings,
// which the kernel writes when it likes. A process of its own does it: this one answers
// those writes.
func (s *supervisor) flush() error {
	view := filepath.Join(s.engine.store.ContainerDir(s.spec.ID), viewName)
	child, err := runner.StartSelf(runner.Self{Args: []string{"varve", "flush", view}, Stderr: os.Stderr})
	if err != nil {
		return fmt.Errorf("write what is in mapped files: %w", err)
	}
	code, err := child.Wait()
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	if err != nil {
		return fmt.Errorf("write what is in mapped files: %w", err)
	}
	return nil
}

// Flush has the kernel write all that was changed in the file system that dir is on.
func Flush(dir string) error {
	fd, err := at.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // only read
	return os.NewSyscallError("syncfs", unix.Syncfs(fd))
}

// release lets them go on, if no other guest holds them.
func (s *supervisor) release(g *guest) {
	s.holding.Lock()
	defer s.holding.Unlock()
	if !g.holds {
		return
	}
	g.holds = false
	if s.holders--; s.holders == 0 {
		s.thaw()
	}
}

// hold has the programs of a container stand still until release is called, or this
// process ends. A container that has ended meanwhile stands still as it is. The warning,
// if not nil, says that the programs could notice it.
func (e *Engine) hold(id string) (release func(), warning, err error) {
	w, err := e.call(id, request{Do: doHold})
	if errors.Is(err, errNotRunning) {
		return func() {}, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	r, _, err := w.receiveReply()
	switch {
	case err != nil || r.Event == eventFailed:
		w.close()
		return nil, nil, errors.Join(err, sentences(r.Error))
	case r.Error != "":
		warning = errors.New(r.Error)
	}
	return func() {
		defer w.close()
		if w.send(request{Do: doRelease}) == nil {
			_, _, _ = w.receiveReply() // it may have been killed, which ends its container
		}
	}, warning, nil
}
