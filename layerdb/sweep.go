package layerdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
)

// Sweep removes what crashes left: stages of processes that have ended, layer
// directories that no record names, container directories without a record,
// records of containers without a directory, indexes of chains that no image and no
// container stands on, and copies of records that are not there.
func (s *Store) Sweep() error {
	err := s.Update(func(tx *Tx) error {
		if err := tx.checkAge(); err != nil {
			return err
		}
		return errors.Join(tx.sweepLayers(), tx.sweepContainers(), tx.sweepChains(), tx.sweepCopies())
	})
	return errors.Join(err, s.SweepStages())
}

// checkAge fails with ErrDamaged if a copy of a record is of a later change than the
// database knows of: what a database that was put back to an older state does not
// name must not be swept. A process that was killed between writing the copy and
// committing the change looks the same; the next change, or a repair, mends it.
func (tx *Tx) checkAge() error {
	count, err := tx.count()
	if err != nil {
		return err
	}
	images, _, _ := tx.store.readCopies()
	for _, c := range images {
		if c.Update > count {
			return tx.store.damaged(errOlder)
		}
	}
	return nil
}

// errOlder: the database was put back to an older state, or lost changes.
var errOlder = errors.New("it is older than the copies beside it")

// sweepLayers marks the layer directories without a record as trash.
func (tx *Tx) sweepLayers() error {
	layers, err := tx.Layers()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, l := range layers {
		if l.hasBytes() {
			known[l.DiffID.Encoded()] = true
		}
	}
	return tx.trashUnknown(layout.LayersName, known)
}

// sweepContainers marks the container directories without a record as trash.
// Void records need nothing: every Update drops them.
func (tx *Tx) sweepContainers() error {
	list, err := tx.Containers()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, c := range list {
		known[c.ID] = true
	}
	return tx.trashUnknown(layout.ContainersName, known)
}

func (tx *Tx) trashUnknown(dir string, known map[string]bool) error {
	list, err := os.ReadDir(tx.store.Path(dir))
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	for _, e := range list {
		if !known[e.Name()] {
			tx.trash = append(tx.trash, tx.store.Path(dir, e.Name()))
		}
	}
	return nil
}

// SweepStages removes what is in tmp/ and nobody holds locked. It does not open
// the database.
func (s *Store) SweepStages() error {
	list, err := os.ReadDir(s.Path(layout.TmpName))
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, e := range list {
		errs = append(errs, sweepStage(filepath.Join(s.Path(layout.TmpName), e.Name()), e.IsDir()))
	}
	return errors.Join(errs...)
}

func sweepStage(path string, isDir bool) error {
	if !isDir { // nothing of ours
		return at.RemoveAll(at.CWD, path)
	}
	fd, err := layout.LockStage(path)
	if errors.Is(err, layout.ErrSwept) { // it lives, or is gone
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // a directory
	if err := at.RemoveAll(at.CWD, path); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	return nil
}
