package engine

import (
	"fmt"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/layerdb"
)

// Pause stops all processes of a running container, and returns when they have
// stopped. Any process of the user may call it. The warning, if not nil, says that
// they could notice it: there is no control group to freeze.
func (e *Engine) Pause(name string) (warning, err error) {
	c, state, err := e.running(name)
	if err != nil {
		return nil, err
	}
	if state.Paused() {
		return nil, fmt.Errorf("Container %s is already paused", c.ID) //lint:ignore ST1005 docker's words
	}
	if warning, err = state.Freeze(); err == nil {
		e.NoteContainer(c.ID, "pause", nil)
	}
	return warning, err
}

// Unpause lets the processes of a paused container go on.
func (e *Engine) Unpause(name string) error {
	c, state, err := e.findState(name)
	if err != nil {
		return err
	}
	if !state.Paused() {
		return fmt.Errorf("Container %s is not paused", c.ID) //lint:ignore ST1005 docker's words
	}
	if err = state.Thaw(); err == nil {
		e.NoteContainer(c.ID, "unpause", nil)
	}
	return err
}

// running finds a container that runs, paused or not, and its state.
func (e *Engine) running(name string) (c layerdb.Container, state container.State, err error) {
	err = e.store.View(func(tx *layerdb.Tx) error {
		c, err = tx.FindContainer(name)
		return err
	})
	if err != nil {
		return c, state, err
	}
	state, err = e.ReadState(c.ID)
	if err == nil && state.Status != container.Running {
		err = fmt.Errorf("Container %s is not running", c.ID) //lint:ignore ST1005 docker's words
	}
	return c, state, err
}
