package container

// hold has the programs of the container stand still for a guest. That the supervisor does
// so, and not the verb that asks, has two reasons: it may signal and freeze them whoever
// they are, and if the verb is killed they go on.
func (s *supervisor) hold(g *guest) error {
	s.holding.Lock()
	defer s.holding.Unlock()
	r := Reply{Event: EventDone}
	if s.holders == 0 {
		s.mu.Lock()
		state := s.state
		s.mu.Unlock()
		var warning, err error
		if s.froze = !state.Paused(); s.froze {
			warning, err = state.Freeze()
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
	return g.wire.Send(r)
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
