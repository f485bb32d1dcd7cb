package layerdb

import (
	"errors"
	"fmt"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
)

// Stage makes an empty stage, mode 0700, whose name begins with prefix. It ends in
// [Tx.Publish] or Discard.
func (s *Store) Stage(prefix string) (*layout.Stage, error) {
	if s.opt.ReadOnly {
		return nil, fmt.Errorf("store %s: %w", s.Root(), ErrReadOnly)
	}
	return s.NewStage(prefix)
}

func discardAll(stages []*layout.Stage) error {
	var errs []error
	for _, st := range stages {
		errs = append(errs, st.Discard())
	}
	return errors.Join(errs...)
}

// Publish gives the stage its final place, [layout.Dir.LayerDir] or
// [layout.Dir.ContainerDir], as a part of the transaction: if it fails, the directory
// is removed again. If final is there already the stage is dropped instead: a
// layer's name is its content.
func (tx *Tx) Publish(st *layout.Stage, final string) error {
	moved, err := st.Publish(final)
	if err != nil {
		return err
	}
	if !moved {
		tx.spare = append(tx.spare, st)
		return nil
	}
	tx.published = append(tx.published, final)
	tx.store.hook("publish: renamed")
	return st.Settle()
}

// collectTrash moves away the directories that the transaction forgot, and removes
// such files, or, if it was given up, moves away what it had published. After a
// commit that failed the record may be in the log all the same: what was published
// stays, for the sweeper to judge by the records.
// Preconditions: store.lock is held alone.
func (s *Store) collectTrash(tx *Tx) ([]*layout.Stage, error) {
	var stages []*layout.Stage
	var errs []error
	var list []string
	switch {
	case tx.committed:
		list = tx.trash
		for _, file := range tx.trashFiles {
			errs = append(errs, at.RemoveAll(at.CWD, file)) // a file has one name to go
		}
	case !tx.tried:
		list = tx.published
	}
	for _, dir := range list {
		st, err := s.Trash(dir)
		if st != nil {
			stages = append(stages, st)
		}
		errs = append(errs, err)
	}
	return stages, errors.Join(errs...)
}
