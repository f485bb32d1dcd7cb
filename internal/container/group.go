package container

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/cgroup"
	"github.com/varvefs/varve/runner"
)

// GroupPrefix begins the names of control groups, so that a person who finds one
// knows whose it is.
const GroupPrefix = "varve-"

// planGroup says where the container's control group will be. It is written down
// before the group is made, so that a supervisor that is killed leaves none that
// nobody knows of. A container runs without one where there is none to be had.
func (s *supervisor) planGroup() cgroup.Group {
	host, err := cgroup.Find()
	if err != nil {
		return cgroup.Group{}
	}
	var group cgroup.Group
	group, s.missing = host.Plan(GroupPrefix+s.spec.ID, s.spec.Sandbox.Limits)
	return group
}

// startInGroup makes the group and starts the program in it.
func (s *supervisor) startInGroup(cfg runner.Config) (*runner.Process, error) {
	limited := s.spec.Sandbox.Limits != (cgroup.Limits{})
	// A group that could not be made, as on a read-only tree, matters only where it
	// should limit something.
	group, err := s.state.Group.Make(s.spec.Sandbox.Limits)
	s.setGroup(group)
	if err != nil && limited {
		return nil, err
	}
	if err = s.confine(&cfg, group, s.missing); err != nil {
		return nil, err
	}
	if cfg.Group != nil {
		defer func() { _ = cfg.Group.Close() }() // a directory
	}
	p, err := runner.Start(cfg)
	if err == nil && cfg.Group != nil && !p.Grouped() {
		return s.outside(p)
	}
	return p, err
}

// setGroup notes it for those who ask over the control socket. The goroutine that calls
// this is the only one that writes it, so it alone may read it without the lock.
func (s *supervisor) setGroup(group cgroup.Group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Group = group
}

// confine puts a program into the group, as the container's user and behind its walls.
// missing are the controllers that can not limit it. The caller closes cfg.Group, which
// is nil where there is none.
func (s *supervisor) confine(cfg *runner.Config, group cgroup.Group, missing []string) (err error) {
	cfg.Group, err = group.Open()
	cfg.Join, cfg.GroupDir = group.Joined(), group.Unified
	s.spec.Sandbox.apply(cfg, missing)
	s.spec.applyUser(cfg)
	return err
}

// outside does without the group that the kernel lets nobody into, unless it was to
// limit something.
func (s *supervisor) outside(p *runner.Process) (*runner.Process, error) {
	group := s.state.Group
	err := cgroup.Group{Unified: group.Unified}.Remove() // it is empty
	if len(group.Controllers) == 0 {
		group.Unified = ""
		s.setGroup(group)
		return p, err
	}
	_ = p.Signal(unix.SIGKILL) // it may have ended already
	_, waitErr := p.Wait()
	return nil, errors.Join(errors.New("limit the container: the kernel lets no process into the control group that was made for it"), err, waitErr)
}

// removeGroup removes the control group when the container has ended.
func (s *supervisor) removeGroup() error {
	group := s.state.Group
	killed, err := group.OOMKilled(), group.Remove()
	s.setGroup(cgroup.Group{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.OOMKilled = killed
	return err
}

// SweepGroup removes the control group of a container whose supervisor was
// killed. The container's last processes may still be ending, so what can not be
// removed now is left for the next who looks.
func (s State) SweepGroup() {
	if !s.Init.Alive() {
		_ = s.Group.Remove() // as said
	}
}

// freezeLimit is how long the processes of a container may take to stop: one may
// be in a system call that has to end first.
const freezeLimit = 10 * time.Second

// Paused tells whether the processes of a running container are stopped.
func (s State) Paused() bool { return s.Status == Running && s.Group.Frozen(s.Init.Pid) }

// Freeze stops all processes of a running container, as Pause does.
func (s State) Freeze() (warning, err error) {
	err = s.Group.Freeze(s.Init.Pid, freezeLimit)
	if errors.Is(err, cgroup.ErrSignals) {
		return err, nil
	}
	return nil, err
}

// Thaw lets them go on.
func (s State) Thaw() error { return s.Group.Thaw(s.Init.Pid) }
