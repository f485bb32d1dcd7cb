package engine

import (
	"errors"

	"github.com/varvefs/varve/internal/container"
)

// hold has the programs of a container stand still until release is called, or this
// process ends. A container that has ended meanwhile stands still as it is. The warning,
// if not nil, says that the programs could notice it.
func (e *Engine) hold(id string) (release func(), warning, err error) {
	w, err := e.call(id, container.Request{Do: container.DoHold})
	if errors.Is(err, container.ErrNotRunning) {
		return func() {}, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	r, _, err := w.ReceiveReply()
	switch {
	case err != nil || r.Event == container.EventFailed:
		w.Close()
		return nil, nil, errors.Join(err, sentences(r.Error))
	case r.Error != "":
		warning = errors.New(r.Error)
	}
	return func() {
		defer w.Close()
		if w.Send(container.Request{Do: container.DoRelease}) == nil {
			_, _, _ = w.ReceiveReply() // it may have been killed, which ends its container
		}
	}, warning, nil
}
