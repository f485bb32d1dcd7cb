package engine

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/stage"
	"github.com/varvefs/varve/runner"
)

// Create makes a container that does not run yet and returns its ID.
func (e *Engine) Create(opt CreateOptions) (string, error) {
	spec, err := newSpec(opt)
	if err != nil {
		return "", err
	}
	return spec.ID, e.create(spec, opt, container.State{Status: container.Created}, steps{func() {}, func() {}})
}

// Run creates a container and starts its supervisor, which runs the program with the
// streams of attach connected; nil is none of them. To save time the supervisor is
// started first, and makes the view while the record of the container is being made
// durable, which it is before the program runs.
func (e *Engine) Run(opt CreateOptions, attach *AttachOptions) (*Session, error) {
	spec, err := newSpec(opt)
	if err != nil {
		return nil, err
	}
	s := newSession(e, spec.ID)
	s.created = make(chan error, 1)
	state, err := s.startSupervisor(&spec.Sandbox)
	if err != nil {
		return nil, err
	}
	s.Warning = errors.Join(s.Warning, spec.Sandbox.Lacking())
	made, recorded := make(chan struct{}), make(chan struct{})
	go func() {
		s.created <- e.create(spec, opt, state, steps{func() { close(made) }, func() { close(recorded) }})
	}()
	err = s.reach(made)
	if err == nil {
		err = s.request(container.Request{Do: container.DoBegin, Await: true}, attach, true, spec.Terminal)
	}
	if err == nil {
		err = s.reach(recorded)
	}
	if err == nil {
		err = ifListening(s.wire.Send(container.Request{Do: container.DoRecorded}))
	}
	if err != nil {
		return nil, s.giveUp(err)
	}
	go s.listen()
	return s, nil
}

// reach waits for a step of the creation, or for its failure.
func (s *Session) reach(step chan struct{}) error {
	select {
	case <-step:
		return nil
	case err := <-s.created:
		s.created <- err // for who waits for the end of the creation
		return err       // nil: both were ready at once
	}
}

// giveUp ends the supervisor, which sees that nobody asks anything of it.
func (s *Session) giveUp(cause error) error {
	s.wire.Close()
	_, err := s.child.Wait()
	return errors.Join(cause, err)
}

// startSupervisor starts one, to wait at the connection for what to do. It returns the
// state of a container that has this supervisor, and has not run.
func (s *Session) startSupervisor(b *container.Sandbox) (container.State, error) {
	into, err := s.engine.openNeighbour(b)
	if err != nil {
		return container.State{}, err
	}
	if into != nil {
		defer func() { _ = into.Close() }() // a pidfd
	}

	ours, theirs, err := container.WirePair()
	if err != nil {
		return container.State{}, fmt.Errorf("start the supervisor: %w", err)
	}
	s.wire = ours
	state, err := s.startSelf(theirs, into)
	if err = errors.Join(err, theirs.Close()); err != nil {
		ours.Close()
		return container.State{}, fmt.Errorf("start the supervisor: %w", err)
	}
	return state, nil
}

func (s *Session) startSelf(theirs, into *os.File) (container.State, error) {
	self := runner.Self{
		Args:          []string{"varve", "supervise", s.ID},
		Env:           container.Environ(s.engine.Root()),
		Stderr:        os.Stderr,          // until it has a file of its own
		Files:         []*os.File{theirs}, // descriptor 3
		Setsid:        true,               // it outlives this terminal
		Slack:         true,
		Into:          into,
		PrivateMounts: true,
	}
	var err error
	if into == nil {
		if self.Userns, err = planUserns(s.engine.Root()); err != nil {
			return container.State{}, err
		}
	}
	if self.Program, err = stage.OpenSupervisor(s.engine.store.StageDir()); err == nil {
		defer func() { _ = self.Program.Close() }() // only read
		own, err := runner.OwnFile()                // for what a supervisor has varve do
		if err != nil {
			return container.State{}, err
		}
		defer func() { _ = own.Close() }() // O_PATH
		self.Files = append(self.Files, own)
	} // else varve supervises itself, which is slower
	if s.child, err = runner.StartSelf(self); err != nil {
		return container.State{}, err
	}
	s.Warning = s.child.Fallback
	start, err := runner.ProcessStartTime(s.child.Pid())
	return container.State{Status: container.Created, Supervisor: container.Proc{Pid: s.child.Pid(), Start: start}}, err
}

// Start starts a container that does not run, found by any of its names, with the
// streams of attach connected; nil is none. One that runs already is attached to, or
// left alone: then the session is nil.
func (e *Engine) Start(name string, attach *AttachOptions) (*Session, error) {
	c, spec, err := e.container(name)
	if err != nil {
		return nil, err
	}
	lock, err := e.lockContainer(c.ID)
	if err != nil {
		return nil, err
	}
	defer lock.release()
	state, err := e.ReadState(c.ID)
	switch {
	case err != nil:
		return nil, err
	case state.Paused():
		return nil, errors.New("cannot start a paused container, try unpause instead")
	case state.Up():
		if attach == nil {
			return nil, nil
		}
		return e.attach(c.ID, spec, attach)
	}
	if err := end(state); err != nil { // what a supervisor that was killed left
		return nil, err
	}
	s := newSession(e, c.ID)
	fresh, err := s.startSupervisor(&spec.Sandbox)
	if err != nil {
		return nil, err
	}
	s.Warning = errors.Join(s.Warning, spec.Sandbox.Lacking())
	state.Supervisor, state.Init = fresh.Supervisor, container.Proc{}
	if err := e.WriteState(c.ID, state); err != nil {
		return nil, s.giveUp(err)
	}
	if err := s.ask(container.Request{Do: container.DoBegin}, attach, true, spec.Terminal); err != nil {
		return nil, s.giveUp(err)
	}
	_ = s.Started() // Wait or Started tell of a failure; until then nobody else may start it
	return s, nil
}

// Startable are the IDs of the containers that do not run and that the filters of
// [Engine.Containers] let through, the oldest first. Who asks for the restart policy
// unless-stopped does not mean those that were stopped.
func (e *Engine) Startable(filters ...string) ([]string, error) {
	list, err := e.Containers(filters...)
	if err != nil {
		return nil, err
	}
	asked, err := parseFilters(filters, containerFilters()...)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range slices.Backward(list) {
		kept := c.State.Stopped && slices.Contains(asked["restart-policy"], "unless-stopped")
		if kept {
			spec, err := e.ReadSpec(c.ID)
			if err != nil {
				return nil, err
			}
			kept = spec.Restart.Name == "unless-stopped"
		}
		if !c.State.Up() && !kept {
			ids = append(ids, c.ID)
		}
	}
	return ids, nil
}
