package engine

import (
	"errors"
	"fmt"
	"strings"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/layerdb"
)

// Attach connects the streams of opt with the program of a container that runs, found
// by any of its names.
func (e *Engine) Attach(name string, opt *AttachOptions) (*Session, error) {
	c, spec, err := e.container(name)
	if err != nil {
		return nil, err
	}
	state, err := e.ReadState(c.ID)
	switch {
	case err != nil:
		return nil, err
	case state.Paused():
		//lint:ignore ST1005 docker's words
		return nil, errors.New("You cannot attach to a paused container, unpause it first")
	case state.Status == container.Restarting:
		//lint:ignore ST1005 docker's words
		return nil, errors.New("You cannot attach to a restarting container, wait until it is running")
	case !state.Up():
		//lint:ignore ST1005 docker's words
		return nil, errors.New("You cannot attach to a stopped container, start it first")
	}
	return e.attach(c.ID, spec, opt)
}

func (e *Engine) attach(id string, spec container.Spec, opt *AttachOptions) (*Session, error) {
	w, err := e.dial(id)
	if err != nil {
		return nil, fmt.Errorf("the supervisor of the container does not answer: %w", err)
	}
	s := newSession(e, id)
	s.wire = w
	if !spec.Stdin {
		opt.Stdin = nil
	}
	if err := s.ask(container.Request{Do: container.DoAttach}, opt, false, spec.Terminal); err != nil {
		w.Close()
		return nil, err
	}
	if err := s.Started(); err != nil {
		return nil, err
	}
	return s, nil
}

// Streams tells what a container was made with: a terminal, and stdin.
func (e *Engine) Streams(name string) (terminal, stdin bool, err error) {
	_, spec, err := e.container(name)
	return spec.Terminal, spec.Stdin, err
}

// Rename gives a container another name.
func (e *Engine) Rename(name, newName string) error {
	if newName == "" {
		return errors.New("neither old nor new names may be empty")
	}
	if err := checkName(newName); err != nil {
		return err
	}
	newName = strings.TrimPrefix(newName, "/")
	var c layerdb.Container
	err := e.update(func(tx *layerdb.Tx) (err error) {
		if c, err = tx.FindContainer(name); err != nil {
			return err
		}
		if c.Name == newName {
			//lint:ignore ST1005 docker's words
			return errors.New("Renaming a container with the same name as its current name")
		}
		return tx.RenameContainer(c.ID, newName)
	})
	if err == nil {
		e.NoteContainer(c.ID, "rename", map[string]string{"name": newName, "oldName": "/" + c.Name})
	}
	return err
}
