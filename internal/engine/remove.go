package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/layerdb"
)

// patience is how long a killed container may take to come down.
const patience = 10 * time.Second

// RemoveContainer removes a container found by any of its names. One that runs
// is refused, or with force killed first. What a supervisor that was killed left
// running is ended in any case.
func (e *Engine) RemoveContainer(name string, force bool) error {
	var c layerdb.Container
	err := e.store.View(func(tx *layerdb.Tx) (err error) {
		c, err = tx.FindContainer(name)
		return err
	})
	if err != nil {
		return err
	}
	state, err := e.ReadState(c.ID)
	if err != nil && !force { // with force, a container with a torn state goes too
		return err
	}
	if (state.Up() || state.Status == container.Created && state.Supervisor.Alive()) && !force {
		return refuseRemoval(c.ID, state)
	}
	if force {
		if err := e.kill(c.ID, state); err != nil {
			return err
		}
	}
	lock, err := e.lockContainer(c.ID)
	if err != nil {
		if errors.Is(err, layerdb.ErrNoSuchContainer) && force { // its supervisor was to remove it
			return nil
		}
		return err
	}
	defer lock.release()
	if state, err = e.ReadState(c.ID); err == nil && state.Up() && !force {
		return refuseRemoval(c.ID, state)
	}
	if err := end(state); err != nil {
		return err
	}
	// The directory goes first: that is the removal, and works on a full disk,
	// where the rest has to wait for the next change of the store.
	if err := e.finish(e.store.RemoveContainer(c.ID)); err != nil {
		return err
	}
	e.NoteContainer(c.ID, "destroy", nil)
	err = e.update(func(tx *layerdb.Tx) error {
		_, _, err := tx.Collect()
		return err
	})
	if errors.Is(err, layerdb.ErrNoSpace) {
		return nil
	}
	return err
}

// refuseRemoval says what is to be done first with a container that runs.
func refuseRemoval(id string, state container.State) error {
	what, first := "running", "Stop the container"
	if state.Paused() {
		what, first = "paused", "Unpause and then stop the container"
	}
	//lint:ignore ST1005 docker's words
	return fmt.Errorf("You cannot remove a %s container %s. %s before attempting removal or force remove", what, id, first)
}

// kill has a container end at once, by its supervisor if that still answers.
func (e *Engine) kill(id string, state container.State) error {
	if !state.Supervisor.Alive() || state.Status == container.Exited {
		return nil
	}
	done := make(chan error, 1)
	now := 0
	go func() { done <- e.stop(id, container.StopOptions{Timeout: &now}) }()
	select {
	case err := <-done:
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, container.ErrNotRunning) {
			return nil
		}
		return err
	case <-time.After(patience / 5):
		return end(state)
	}
}

// end kills what is left of a container: its program, and its supervisor if that does
// not come down by itself, and waits until both are gone.
func end(s container.State) error {
	if !s.Busy() {
		return nil
	}
	if err := s.Init.Kill(); err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	if s.Init.Alive() { // a frozen process may not end before it is thawed
		_ = s.Thaw() // it may have ended since
	}
	for limit := time.Now().Add(patience / 5); s.Supervisor.Alive() && time.Now().Before(limit); {
		time.Sleep(2 * time.Millisecond)
	}
	if err := s.Supervisor.Kill(); err != nil {
		return err
	}
	for limit := time.Now().Add(patience); s.Busy(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(limit) {
			return fmt.Errorf("process %d or %d of the container did not end", s.Supervisor.Pid, s.Init.Pid)
		}
	}
	s.SweepGroup()
	return nil
}

// IsNoSuchContainer tells whether something failed because a container is not here.
func IsNoSuchContainer(err error) bool { return errors.Is(err, layerdb.ErrNoSuchContainer) }
