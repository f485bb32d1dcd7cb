package layout

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
// Publish or Discard.
type Stage struct {
	path     string
	fd       int  // of the directory, with the flock; -1 when done
	synced   bool // all that is in it is durable, or need not be
	volatile bool // its place need not be durable either
}

// NewStage makes an empty stage, mode 0700, whose name begins with prefix.
func (d Dir) NewStage(prefix string) (*Stage, error) {
	for {
		path, err := os.MkdirTemp(d.Path(TmpName), prefix+"-")
		if err != nil {
			return nil, fmt.Errorf("make a stage: %w", err)
		}
		fd, err := LockStage(path)
		if errors.Is(err, ErrSwept) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("make a stage: %w", err)
		}
		return &Stage{path: path, fd: fd}, nil
	}
}

// ErrLeftover says that all was done as asked, but files that other ids of a user
// namespace own are still in tmp/.
var ErrLeftover = errors.New("files of other ids were left in tmp")

// ErrSwept says that a sweep took the directory before it could be locked.
var ErrSwept = errors.New("swept")

// LockStage opens and locks a stage. A sweep may have come between mkdir and
// flock, so the name must still be the directory that was locked; else it is ErrSwept,
// as it is where another process has it. The descriptor, whose end is that of the lock,
// is the caller's.
func LockStage(path string) (int, error) {
	fd, err := at.OpenDir(at.CWD, path)
	if errors.Is(err, fs.ErrNotExist) {
		return -1, ErrSwept
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
		return -1, ErrSwept
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
		if err := SyncDir(filepath.Join(st.path, name)); err != nil {
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
	st.Abandon()
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: remove %s: %w", ErrLeftover, st.path, err)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", st.path, err)
	}
	return nil
}

// Abandon leaves the stage as it is, to be removed by the next sweep.
func (st *Stage) Abandon() {
	_ = unix.Close(st.fd) // a directory; this drops the lock
	st.fd = -1
}

// Publish gives the stage its final place in the store, where all that is in it is made
// durable before. It tells false if there is something already, and leaves all as it is.
// The place is durable after [Stage.Settle].
func (st *Stage) Publish(final string) (bool, error) {
	if !st.synced {
		if err := st.Sync(); err != nil {
			return false, err
		}
	}
	err := at.Rename(at.CWD, st.path, at.CWD, final, unix.RENAME_NOREPLACE)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("publish %s: %w", st.path, err)
	}
	st.path = final
	st.Abandon()
	return true, nil
}

// Settle makes the place of a stage that was published durable, if it need be.
func (st *Stage) Settle() error {
	if st.volatile {
		return nil
	}
	if err := SyncDir(filepath.Dir(st.path)); err != nil {
		return fmt.Errorf("publish %s: %w", st.path, err)
	}
	return nil
}

// Trash makes a stage of a directory in layers/ or containers/, nil if it is not
// there or another process is at it. It makes nothing new, so it works on a full
// disk.
func (d Dir) Trash(dir string) (*Stage, error) {
	fd, err := LockStage(dir)
	if errors.Is(err, ErrSwept) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("remove %s: %w", dir, err)
	}
	d.hook("trash: before rename")
	// The names differ in all three places, and one that a crash left is rubbish.
	st := &Stage{path: d.Path(TmpName, "trash-"+filepath.Base(dir)), fd: fd}
	err = at.RemoveAll(at.CWD, st.path)
	if err == nil {
		err = at.Rename(at.CWD, dir, at.CWD, st.path, 0)
	}
	if err != nil {
		st.Abandon()
		return nil, fmt.Errorf("remove %s: %w", dir, err)
	}
	return st, nil
}

// RemoveContainer removes the directory of a container at one stroke, and with
// it the container: the record is void from then on, and the next Update drops
// it. It costs no opening of the database, which matters to short runs, and needs
// no space, which matters on a full disk. A container that is not there is no
// error.
func (d Dir) RemoveContainer(id string) error {
	st, err := d.TrashContainer(id)
	return errors.Join(err, st.Discard())
}

// TrashContainer is RemoveContainer for who has no time to delete the files now, which
// are in the stage that it returns, nil if there are none: Discard does. Should nobody
// discard it the next change of the store does.
func (d Dir) TrashContainer(id string) (*Stage, error) {
	st, err := d.Trash(d.ContainerDir(id))
	if st != nil {
		d.hook("remove container: renamed")
	}
	return st, err
}
