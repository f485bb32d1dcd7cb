package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/unionfs"
)

// settle makes the upper of a container that stood on a copy, if there still is one, and
// removes the copy. Whenever it is interrupted, it can be done again: what is made before
// the copy loses its name is thrown away, and that is its last step but to clean up.
//
//  1. The copy is locked, against those who look at it while the container runs.
//  2. upper.new is made of how it differs from the chain.
//  3. All of that is made durable.
//  4. upper.new takes the place of the upper. From here to the next step there may be
//     none: the copy still is the truth.
//  5. The copy loses its name.
//
// Preconditions: nothing runs in the container, and nobody else starts it.
func (e *Engine) settle(spec *container.Spec) error {
	dir := e.store.ContainerDir(spec.ID)
	copied, err := lockCopy(dir, unix.LOCK_EX)
	if err != nil {
		return err
	}
	if copied != nil {
		defer func() { _ = copied.Close() }() // a directory
		if err := e.renewUpper(dir, spec); err != nil {
			return fmt.Errorf("make the upper of what the container has changed: %w", err)
		}
	}
	return removeBelow(dir, container.UnripeName, container.SpentName, container.NewUpperName)
}

// renewUpper is settle from its second step on.
func (e *Engine) renewUpper(dir string, spec *container.Spec) error {
	fresh := filepath.Join(dir, container.NewUpperName)
	if err := removeBelow(dir, container.NewUpperName); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	err := e.difference(spec, fresh, archive.Difference{Link: true})
	if err == nil {
		err = syncFS(fresh)
	}
	if err == nil {
		err = removeBelow(dir, container.UpperName)
	}
	if err == nil {
		err = os.Rename(fresh, filepath.Join(dir, container.UpperName))
	}
	if err == nil {
		err = layout.SyncDir(dir)
	}
	if err == nil {
		err = os.Rename(filepath.Join(dir, container.CopyName), filepath.Join(dir, container.SpentName))
	}
	if err == nil {
		err = layout.SyncDir(dir)
	}
	return err
}

// difference makes the upper of a copy in the empty directory to.
func (e *Engine) difference(spec *container.Spec, to string, d archive.Difference) error {
	chain, err := e.Chain(spec.Layers)
	if err != nil {
		return err
	}
	tree, err := unionfs.OpenTree(chain.Lowers)
	if err != nil {
		return err
	}
	defer tree.Close()
	d.Names, d.Below = belowOf(tree)
	if err := d.WriteUpper(filepath.Join(e.store.ContainerDir(spec.ID), container.CopyName), to); err != nil {
		return err
	}
	return container.TidyMountPoints(to, chain.Lowers)
}

// belowOf is how a tree is looked at as the chain of an [archive.Difference].
func belowOf(tree *unionfs.Tree) (names func(string) ([]string, error), below func(string) (archive.File, bool, error)) {
	d := differ{tree: tree}
	return d.names, func(path string) (archive.File, bool, error) {
		entry, ok, err := d.below(path)
		if err != nil || !ok {
			return archive.File{}, false, err
		}
		file, err := treeFile(entry, container.IDs{}) // as it is on the disk
		return file, true, err
	}
}

// Settle is what the hidden verb does that settles the upper of a container for its
// supervisor, under the preconditions of settle.
func (e *Engine) Settle(id string) error {
	spec, err := e.ReadSpec(id)
	if err != nil {
		return err
	}
	return e.settle(&spec)
}

// lockCopy locks the copy that a container stands on, until the file is closed; nil if there
// is none.
func lockCopy(dir string, how int) (*os.File, error) {
	for {
		path := filepath.Join(dir, container.CopyName)
		file, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		err = unix.EINTR
		for err == unix.EINTR {
			err = unix.Flock(int(file.Fd()), how)
		}
		if err != nil {
			return nil, errors.Join(os.NewSyscallError("flock", err), file.Close())
		}
		locked, err := file.Stat()
		if now, nowErr := os.Lstat(path); err == nil && nowErr == nil && os.SameFile(locked, now) {
			return file, nil
		}
		if err = errors.Join(err, file.Close()); err != nil { // else it was settled meanwhile
			return nil, err
		}
	}
}

// A closeUpper ends the use of what openUpper gave.
type closeUpper func() error

// openUpper says where what a container has changed is to be read. Of one that runs on a
// copy that is a directory made for that, as want says. What a supervisor that was killed
// has left is settled first. It has to run [Inside], and done has to be called.
func (e *Engine) openUpper(spec *container.Spec, want archive.Difference) (dir string, done closeUpper, err error) {
	none := func() error { return nil }
	home := e.store.ContainerDir(spec.ID)
	for {
		if !isDir(filepath.Join(home, container.CopyName)) {
			return filepath.Join(home, container.UpperName), none, nil
		}
		running, err := e.settleDead(spec)
		if err != nil {
			return "", none, err
		}
		if !running {
			return filepath.Join(home, container.UpperName), none, nil
		}
		copied, err := lockCopy(home, unix.LOCK_SH)
		if err != nil {
			return "", none, err
		}
		if copied == nil {
			continue
		}
		dir, done, err = e.stageUpper(spec, want)
		return dir, done, errors.Join(err, copied.Close())
	}
}

// settleDead settles the upper of a container that does not run.
func (e *Engine) settleDead(spec *container.Spec) (running bool, err error) {
	lock, err := e.lockContainer(spec.ID)
	if err != nil {
		return false, err
	}
	defer lock.release()
	state, err := e.ReadState(spec.ID)
	if err != nil || state.Supervisor.Alive() {
		return true, err
	}
	if err := end(state); err != nil {
		return false, err
	}
	return false, e.settle(spec)
}

// stageUpper makes the upper of a copy in a stage.
func (e *Engine) stageUpper(spec *container.Spec, want archive.Difference) (string, closeUpper, error) {
	none := func() error { return nil }
	stage, err := e.store.Stage("upper")
	if err != nil {
		return "", none, err
	}
	dir := filepath.Join(stage.Path(), container.UpperName)
	if err = os.Mkdir(dir, 0o700); err == nil {
		err = e.difference(spec, dir, want)
	}
	if err != nil {
		return "", none, errors.Join(err, stage.Discard())
	}
	return dir, stage.Discard, nil
}
