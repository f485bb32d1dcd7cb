package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/layerdb"
	"github.com/varvefs/varve/unionfs"
	"github.com/varvefs/varve/whiteout"
)

// The kinds of a [Change], docker's.
const (
	Added   = 'A'
	Changed = 'C'
	Deleted = 'D'
)

// Change is one line of `varve diff`.
type Change struct {
	Kind byte   // Added, Changed or Deleted
	Path string // absolute, in the container
}

// Diff compares the upper of a container with what lies below it, in the order of
// the paths. Only the upper is walked, with one lookup below for each of its
// names. It has to run [Inside].
func (e *Engine) Diff(name string) ([]Change, error) {
	_, spec, err := e.container(name)
	if err != nil {
		return nil, err
	}
	chain, err := e.Chain(spec.Layers)
	if err != nil {
		return nil, err
	}
	tree, err := unionfs.OpenTree(chain.Lowers)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	dir, done, err := e.openUpper(&spec, archive.Difference{Hollow: true, Loose: true})
	if err != nil {
		return nil, err
	}
	d := differ{tree: tree}
	if d.ids, err = container.IDsOf(spec); err == nil {
		err = d.root(dir)
	}
	if err = errors.Join(err, done()); err != nil {
		return nil, fmt.Errorf("compare the layers: %w", err)
	}
	slices.SortFunc(d.changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return d.changes, nil
}

// container finds a container and reads what was asked of it.
func (e *Engine) container(name string) (layerdb.Container, container.Spec, error) {
	c, _, err := e.findState(name)
	if err != nil {
		return c, container.Spec{}, err
	}
	spec, err := e.ReadSpec(c.ID)
	return c, spec, err
}

// findState finds a container and reads how it fares. One that runs is found without
// the database, which takes a third of the time of an exec to open.
func (e *Engine) findState(name string) (c layerdb.Container, state container.State, err error) {
	if c, found := e.store.GlanceContainer(name); found {
		if state, err := e.ReadState(c.ID); err == nil && state.Up() {
			return c, state, nil
		}
	}
	err = e.store.View(func(tx *layerdb.Tx) error {
		c, err = tx.FindContainer(name)
		return err
	})
	if err == nil {
		state, err = e.ReadState(c.ID)
	}
	return c, state, err
}

type differ struct {
	tree    *unionfs.Tree
	ids     container.IDs
	changes []Change
}

func (d *differ) add(kind byte, path string) {
	d.changes = append(d.changes, Change{kind, "/" + path})
}

// root compares an upper.
func (d *differ) root(upper string) error {
	fd, err := at.OpenRoot(upper)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	return d.walk(fd, "")
}

// walk compares the directory behind fd, which is path in the container, and
// what is below it.
func (d *differ) walk(fd int, path string) error {
	listing, err := whiteout.Read(fd)
	if err != nil {
		return err
	}
	opaque, err := whiteout.IsOpaque(fd)
	if err != nil {
		return err
	}
	here := map[string]bool{}
	for _, entry := range listing.Entries {
		here[entry.Name] = true
		if err := d.entry(fd, join(path, entry.Name), entry); err != nil {
			return err
		}
	}
	hidden := listing.Hidden
	if opaque || listing.Opaque {
		if hidden, err = d.names(path); err != nil {
			return err
		}
	}
	for _, name := range hidden {
		if _, below, err := d.below(join(path, name)); err != nil {
			return err
		} else if below && !here[name] {
			d.add(Deleted, join(path, name))
		}
	}
	return nil
}

// entry compares one name of the upper.
func (d *differ) entry(dir int, path string, entry at.Dirent) error {
	lower, below, err := d.below(path)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := at.Stat(dir, entry.Name, &st); err != nil {
		return ifThere(err)
	}
	if isDir := entry.Type == unix.DT_DIR; below && isDir && d.sameDirectory(&st, dir, entry.Name, lower) ||
		!below && container.IsPlaceholder(path, &st) {
		return d.quietly(dir, path, entry)
	}
	if below {
		d.add(Changed, path)
	} else {
		d.add(Added, path)
	}
	if entry.Type != unix.DT_DIR {
		if below && lower.Stat.Mode&unix.S_IFMT == unix.S_IFDIR {
			return d.deleteBelow(path)
		}
		return nil
	}
	fd, err := at.OpenDir(dir, entry.Name)
	if err != nil {
		return ifThere(err)
	}
	defer func() { _ = unix.Close(fd) }() // read only
	return ifThere(d.walk(fd, path))
}

// ifThere drops the error of a name that a program has taken away, or given to something
// else, since it was listed: a container may run while it is compared.
func ifThere(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

// sameDirectory tells whether a directory of the upper is shown as the one below is: it
// came up only on the way to something in it.
func (d *differ) sameDirectory(st *unix.Stat_t, dir int, name string, lower unionfs.Entry) bool {
	old, err := treeFile(lower, d.ids)
	if err != nil || old.Stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false
	}
	now := archive.File{Path: lower.Path, Stat: *st}
	if owner, err := at.Getxattr(dir, name, layout.OverrideAttr); err == nil {
		now.Xattrs = map[string][]byte{layout.OverrideAttr: owner}
	}
	if err = showOwner(d.ids, &now); err != nil {
		return false
	}
	a, b := &now.Stat, &old.Stat
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid && a.Mtim == b.Mtim
}

// quietly notes what changed in a directory that is no change itself, and the directory
// only if there is something.
func (d *differ) quietly(dir int, path string, entry at.Dirent) error {
	if entry.Type != unix.DT_DIR {
		return nil
	}
	before := len(d.changes)
	fd, err := at.OpenDir(dir, entry.Name)
	if err != nil {
		return ifThere(err)
	}
	defer func() { _ = unix.Close(fd) }() // read only
	if err = ifThere(d.walk(fd, path)); err == nil && len(d.changes) > before {
		d.add(Changed, path)
	}
	return err
}

// deleteBelow notes that what was in a lower directory is gone, since something
// else has its name now.
func (d *differ) deleteBelow(path string) error {
	names, err := d.names(path)
	for _, name := range names {
		d.add(Deleted, join(path, name))
	}
	return err
}

// below looks path up in the layers below the upper.
func (d *differ) below(path string) (unionfs.Entry, bool, error) {
	entry, err := d.tree.Lookup(path)
	if errors.Is(err, fs.ErrNotExist) {
		return entry, false, nil
	}
	return entry, err == nil, err
}

// names lists a directory of the layers below; none if it is not one there.
func (d *differ) names(path string) ([]string, error) {
	names, err := d.tree.Names(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	return names, err
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
