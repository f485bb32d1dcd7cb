package archive

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// walk goes through an upper in the order of the tar. However deep the tree is,
// only the two descriptors of the directory at hand are open: those above are
// opened again when they go on.
type walk struct {
	p        *packer
	stack    []*frame
	src, dst int // the directory of the last frame in upper and copy; -1 when not open
}

// frame is a directory that is being packed.
type frame struct {
	path  string // "" is the root
	items []child
	attrs *attrs // to be given to the copy when all is in it
	// opaque: its parent hides the same name in the layers below.
	opaque bool
	// shows: the layers below are seen in it.
	shows bool
	// unmade: it is as it is in the layers below, and comes only if something in it does.
	unmade bool
}

// child is one name of a directory.
type child struct {
	name   string // in the tar: whiteouts have their prefix
	hidden string // the name that a whiteout hides, "" for a file
	dir    bool
	opaque bool // a directory that is hidden as well
}

func (w *walk) all() error {
	defer w.leave()
	if err := w.enter(&frame{shows: w.p.below != nil}); err != nil {
		return fmt.Errorf("read upper: %w", err)
	}
	for len(w.stack) > 0 {
		f := w.stack[len(w.stack)-1]
		if err := w.step(f); err != nil {
			return fmt.Errorf("pack %s: %w", quote("/"+f.path), err)
		}
	}
	return nil
}

// step does the next item of the last frame, or ends it.
func (w *walk) step(f *frame) error {
	if len(f.items) == 0 {
		return w.pop(f)
	}
	if err := w.open(f.path); err != nil {
		return err
	}
	it := f.items[0]
	f.items = f.items[1:]
	path := joinName(f.path, it.name)
	same, err := w.inChain(f, path, it)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", quote(it.name), err)
	case same && it.dir:
		return w.descend(&frame{path: path, shows: true, unmade: true})
	case same:
		return nil
	}
	if err := w.make(); err != nil {
		return err
	}
	switch {
	case it.hidden != "":
		return errors.Join(w.p.mark(path), w.p.dialect.Hide(w.dst, it.hidden))
	case it.dir:
		return w.descend(&frame{path: path, opaque: it.opaque, shows: f.shows && !it.opaque})
	}
	if err := w.p.file(w.src, w.dst, path, it.name); err != nil {
		return fmt.Errorf("%s: %w", quote(it.name), err)
	}
	return nil
}

// inChain tells whether the layers below f show the same at path.
func (w *walk) inChain(f *frame, path string, it child) (bool, error) {
	if !f.shows || it.hidden != "" || it.opaque {
		return false, nil
	}
	return w.p.inChain(w.src, it.name, path)
}

// descend goes into the directory f of the last frame, which it makes unless it may
// not be needed.
func (w *walk) descend(f *frame) (err error) {
	_, base := splitName(f.path)
	if f.attrs, err = w.p.owners.attrsOf(w.src, base, unix.S_IFDIR); err != nil {
		return err
	}
	if !f.unmade {
		if err = w.p.directory(w.dst, f); err != nil {
			return err
		}
	}
	w.leave()
	return w.enter(f)
}

// make makes the directories of the stack that were not needed until now, and
// opens the last.
func (w *walk) make() (err error) {
	if w.dst >= 0 {
		return nil
	}
	for _, f := range w.stack {
		if !f.unmade {
			continue
		}
		parent, _ := splitName(f.path)
		dir, err := at.Beneath(w.p.diff, parent, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		err = w.p.directory(dir, f)
		_ = unix.Close(dir) // read only
		if err != nil {
			return err
		}
		f.unmade = false
	}
	w.dst, err = at.Beneath(w.p.diff, w.stack[len(w.stack)-1].path, unix.O_RDONLY|unix.O_DIRECTORY)
	return err
}

// enter lists the directory of f and puts f on the stack.
func (w *walk) enter(f *frame) error {
	if err := w.open(f.path); err != nil {
		return err
	}
	list, err := whiteout.Read(w.src)
	if err != nil {
		return err
	}
	opaque, err := whiteout.IsOpaque(w.src)
	if err != nil {
		return err
	}
	f.items = arrange(list)
	w.stack = append(w.stack, f)
	if !opaque && !list.Opaque && !f.opaque {
		return nil
	}
	f.shows = false
	if err := w.make(); err != nil {
		return err
	}
	return errors.Join(w.p.mark(joinName(f.path, whiteout.OpaqueName)), w.p.dialect.SetOpaque(w.dst))
}

// arrange sorts the files and whiteouts of a directory by their names in the tar.
func arrange(list whiteout.Listing) []child {
	hidden := map[string]bool{}
	for _, name := range list.Hidden {
		hidden[name] = true
	}
	items := make([]child, 0, len(list.Entries)+len(list.Hidden))
	for _, e := range list.Entries {
		items = append(items, child{name: e.Name, dir: e.Type == unix.DT_DIR, opaque: hidden[e.Name]})
		delete(hidden, e.Name)
	}
	for name := range hidden {
		items = append(items, child{name: whiteout.Prefix + name, hidden: name})
	}
	slices.SortFunc(items, func(a, b child) int { return strings.Compare(a.name, b.name) })
	return items
}

// pop ends a directory: from now on nothing changes its time.
func (w *walk) pop(f *frame) error {
	w.leave()
	w.stack = w.stack[:len(w.stack)-1]
	if f.path == "" || f.unmade {
		return nil
	}
	parent, base := splitName(f.path)
	if err := errors.Join(w.open(parent), w.make()); err != nil {
		return err
	}
	return w.p.owners.dress(w.dst, base, unix.S_IFDIR, f.attrs)
}

func (w *walk) open(path string) (err error) {
	if w.src >= 0 {
		return nil
	}
	w.src, err = at.Beneath(w.p.upper, path, unix.O_RDONLY|unix.O_DIRECTORY)
	return err
}

func (w *walk) leave() {
	for _, fd := range []int{w.src, w.dst} {
		if fd >= 0 {
			_ = unix.Close(fd) // read only
		}
	}
	w.src, w.dst = -1, -1
}
