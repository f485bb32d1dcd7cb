package layerdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// A Stage is a fresh directory under tmp/ for something unfinished. While its
// process lives it is locked, so a sweep leaves it alone; when the process dies
// it is garbage. It is used by one goroutine at a time and ends in
// [Tx.Publish] or Discard.
type Stage struct {
	path     string
	fd       int  // of the directory, with the flock; -1 when done
	synced   bool // all that is in it is durable, or need not be
	volatile bool // its place need not be durable either
}

// Stage makes an empty stage, mode 0700, whose name begins with prefix.
func (s *Store) Stage(prefix string) (*Stage, error) {
	if s.opt.ReadOnly {
		return nil, fmt.Errorf("store %s: %w", s.root, ErrReadOnly)
	}
	for {
		path, err := os.MkdirTemp(s.path(tmpName), prefix+"-")
		if err != nil {
			return nil, fmt.Errorf("make a stage: %w", err)
		}
		fd, err := lockStage(path)
		if errors.Is(err, errSwept) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("make a stage: %w", err)
		}
		return &Stage{path: path, fd: fd}, nil
	}
}

// errSwept: a sweep took the directory before it could be locked.
var errSwept = errors.New("swept")

// lockStage opens and locks a stage. A sweep may have come between mkdir and
// flock, so the name must still be the directory that was locked.
func lockStage(path string) (int, error) {
	fd, err := at.OpenDir(at.CWD, path)
	if errors.Is(err, fs.ErrNotExist) {
		return -1, errSwept
	}
	if err != nil {
		return -1, err
	}
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && sameDir(fd, path) {
		return fd, nil
	}
	_ = unix.Close(fd) // a directory
	if err == nil || err == unix.EWOULDBLOCK {
		return -1, errSwept
	}
	return -1, fmt.Errorf("flock %s: %w", path, err)
}

func sameDir(fd int, path string) bool {
	var a, b unix.Stat_t
	return unix.Fstat(fd, &a) == nil && at.Stat(at.CWD, path, &b) == nil && a.Ino == b.Ino && a.Dev == b.Dev
}

// Path returns the absolute path of the stage.
func (st *Stage) Path() string { return st.path }

// Sync makes all that is in the stage durable. It asks the whole file system
// once instead of every file, and so belongs before the transaction that
// publishes the stage. Preconditions: nothing is written to the stage after.
func (st *Stage) Sync() error {
	if err := unix.Syncfs(st.fd); err != nil {
		return fmt.Errorf("sync %s: %w", st.path, err)
	}
	st.synced = true
	return nil
}

// SyncFiles makes the named files of the stage durable, and is enough instead of
// Sync if the stage has no others.
func (st *Stage) SyncFiles(names ...string) error {
	for _, name := range append(names, ".") {
		if err := syncDir(filepath.Join(st.path, name)); err != nil {
			return fmt.Errorf("sync a stage: %w", err)
		}
	}
	st.synced = true
	return nil
}

// Volatile says that the stage need not survive a power failure, only the end of
// any process: for containers that are removed when they end.
func (st *Stage) Volatile() { st.synced, st.volatile = true, true }

// Discard removes the stage, if it was not published. It may be called twice,
// so it can be deferred. ErrLeftover says that it holds files of others.
func (st *Stage) Discard() error {
	if st == nil || st.fd < 0 {
		return nil
	}
	err := at.RemoveAll(at.CWD, st.path)
	st.close()
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: remove %s: %w", ErrLeftover, st.path, err)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", st.path, err)
	}
	return nil
}

func (st *Stage) close() {
	_ = unix.Close(st.fd) // a directory; this drops the lock
	st.fd = -1
}

func discardAll(stages []*Stage) error {
	var errs []error
	for _, st := range stages {
		errs = append(errs, st.Discard())
	}
	return errors.Join(errs...)
}

// Publish gives the stage its final place, [Store.LayerDir] or
// [Store.ContainerDir], as a part of the transaction: if it fails, the directory
// is removed again. If final is there already the stage is dropped instead: a
// layer's name is its content.
func (tx *Tx) Publish(st *Stage, final string) error {
	if !st.synced {
		if err := st.Sync(); err != nil {
			return err
		}
	}
	err := at.Rename(at.CWD, st.path, at.CWD, final, unix.RENAME_NOREPLACE)
	if errors.Is(err, fs.ErrExist) {
		tx.spare = append(tx.spare, st)
		return nil
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", st.path, err)
	}
	st.path = final
	st.close()
	tx.published = append(tx.published, final)
	tx.store.hook("publish: renamed")
	if st.volatile {
		return nil
	}
	if err := syncDir(filepath.Dir(final)); err != nil {
		return fmt.Errorf("publish %s: %w", final, err)
	}
	return nil
}

// collectTrash moves away the directories that the transaction forgot, and removes
// such files, or, if it was given up, moves away what it had published. After a
// commit that failed the record may be in the log all the same: what was published
// stays, for the sweeper to judge by the records.
// Preconditions: store.lock is held alone.
func (s *Store) collectTrash(tx *Tx) ([]*Stage, error) {
	var stages []*Stage
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
		st, err := s.trash(dir)
		if st != nil {
			stages = append(stages, st)
		}
		errs = append(errs, err)
	}
	return stages, errors.Join(errs...)
}

// trash makes a stage of a directory in layers/ or containers/, nil if it is not
// there or another process is at it. It makes nothing new, so it works on a full
// disk.
func (s *Store) trash(dir string) (*Stage, error) {
	fd, err := lockStage(dir)
	if errors.Is(err, errSwept) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("remove %s: %w", dir, err)
	}
	s.hook("trash: before rename")
	// The names differ in all three places, and one that a crash left is rubbish.
	st := &Stage{path: s.path(tmpName, "trash-"+filepath.Base(dir)), fd: fd}
	err = at.RemoveAll(at.CWD, st.path)
	if err == nil {
		err = at.Rename(at.CWD, dir, at.CWD, st.path, 0)
	}
	if err != nil {
		st.close()
		return nil, fmt.Errorf("remove %s: %w", dir, err)
	}
	return st, nil
}

// RemoveContainer removes the directory of a container at one stroke, and with
// it the container: the record is void from then on, and the next Update drops
// it. It costs no opening of the database, which matters to short runs, and needs
// no space, which matters on a full disk. A container that is not there is no
// error.
func (s *Store) RemoveContainer(id string) error {
	st, err := s.TrashContainer(id)
	return errors.Join(err, st.Discard())
}

// TrashContainer is RemoveContainer for who has no time to delete the files now, which
// are in the stage that it returns, nil if there are none: Discard does. Should nobody
// discard it the next change of the store does.
func (s *Store) TrashContainer(id string) (*Stage, error) {
	st, err := s.trash(s.ContainerDir(id))
	if st != nil {
		s.hook("remove container: renamed")
	}
	return st, err
}
