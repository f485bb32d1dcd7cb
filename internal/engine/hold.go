package engine

import "errors"

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
		var warning, err error
		if s.froze = !state.Paused(); s.froze {
			warning, err = state.freeze()
		}
		if err != nil {
			return err
		}
		if err = s.flush(state.Init.Pid); err != nil {
			s.letGo()
			return err
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

// release lets them go on, if no other guest holds them.
func (s *supervisor) release(g *guest) {
	s.holding.Lock()
	defer s.holding.Unlock()
	if !g.holds {
		return
	}
	g.holds = false
	if s.holders--; s.holders == 0 {
		s.letGo()
	}
}

// letGo undoes what hold has done; a container that was paused before stays so.
// Preconditions: s.holding is held.
func (s *supervisor) letGo() {
	if s.froze {
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
