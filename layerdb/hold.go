package layerdb

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// Held is a set of layers whose directories stay where they are until Release,
// also if meanwhile the last record that names them goes. So an image that is on
// its way in can rely on layers that were found when it began.
type Held struct {
	fds   []int // of the layer directories, each with a shared flock
	sizes map[digest.Digest]int64
}

// Hold finds which of the layers, given by their diff IDs, are in the store, and
// holds those. A layer is in the store when a record names it and its directory
// is there.
func (s *Store) Hold(diffIDs ...digest.Digest) (*Held, error) {
	h := &Held{sizes: map[digest.Digest]int64{}}
	if len(diffIDs) == 0 {
		return h, nil
	}
	wanted := map[digest.Digest]bool{}
	for _, id := range diffIDs {
		wanted[id] = true
	}
	err := s.View(func(tx *Tx) error {
		layers, err := tx.Layers()
		for _, l := range layers {
			if err == nil && l.hasBytes() && wanted[l.DiffID] {
				err = h.hold(s, l)
			}
		}
		return err
	})
	if err != nil {
		h.Release()
		return nil, fmt.Errorf("look for layers: %w", err)
	}
	return h, nil
}

// hold locks the directory of a layer against [Store.trash], which moves away only
// what it can lock alone. Preconditions: store.lock is held.
func (h *Held) hold(s *Store, l Layer) error {
	if _, ok := h.sizes[l.DiffID]; ok {
		return nil
	}
	fd, err := at.OpenDir(at.CWD, s.LayerDir(l.DiffID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB); err != nil {
		_ = unix.Close(fd) // a directory
		return fmt.Errorf("flock layer %s: %w", l.DiffID, err)
	}
	h.fds = append(h.fds, fd)
	h.sizes[l.DiffID] = l.Size
	return nil
}

// Size returns the bytes of the files of a held layer; ok is false if the store
// did not have it.
func (h *Held) Size(diffID digest.Digest) (size int64, ok bool) {
	size, ok = h.sizes[diffID]
	return size, ok
}

// Release lets the layers go. It may be called twice.
func (h *Held) Release() {
	for _, fd := range h.fds {
		_ = unix.Close(fd) // a directory; this drops the lock
	}
	h.fds = nil
}
