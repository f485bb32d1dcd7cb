package index

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoBase is the error of [Extend] where only [Build] will do.
var ErrNoBase = errors.New("no index of the layers below that can be used")

// Extend writes to path the same index as [Build], but takes all that is below the
// top layer from the file base, the index of layers[1:]. It reads the directories of
// the top layer only, so the number of its system calls does not depend on the size of
// the layers below. The error wraps ErrNoBase where base is absent or can not be used,
// where the layers are not on one file system, and where the top layer has what leads
// into those below: redirects, and files that have only their metadata there.
func Extend(path, base string, layers []Layer) error {
	data, err := extend(base, layers)
	if err != nil {
		return fmt.Errorf("extend index: %w", err)
	}
	return replace(path, data)
}

func extend(base string, layers []Layer) ([]byte, error) {
	b, err := newBuilder(layers)
	if err != nil {
		return nil, err
	}
	defer b.close()
	below, err := b.openBase(base)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoBase, err)
	}
	x := extender{b: b, below: below}
	if err := x.merge(b.root.sub, 0, true); err != nil {
		return nil, errors.Join(err, below.Close())
	}
	if err := below.Close(); err != nil {
		return nil, err
	}
	return b.encode()
}

// openBase opens the index of all layers but the top one, if it is of these very
// directories.
func (b *builder) openBase(file string) (*Index, error) {
	// Inode numbers have the number of their device in them, which could be another.
	if len(b.devs) != 1 || len(b.ids) < 2 {
		return nil, errors.New("the layers are not on one file system, or there is one only")
	}
	below, err := Open(file, b.ids[1:])
	if err != nil {
		return nil, err
	}
	for i, ino := range b.inos[1:] {
		if below.RootIno(i) != ino {
			return nil, errors.Join(fmt.Errorf("%w: layer %d was copied", ErrOtherLayers, i+1), below.Close())
		}
	}
	return below, nil
}

// extender lays the top layer over an index. What it takes from that is copied.
type extender struct {
	b     *builder
	below *Index
}

// merge merges the directory d of the top layer with inode below, if there is one.
func (x *extender) merge(d *dir, inode uint32, known bool) error {
	m := merging{b: x.b, dir: d, seen: make(map[string]int)}
	opaque, err := x.top(&m)
	if err != nil {
		return fmt.Errorf("layer 0: /%s: %w", d.parts[0].path, err)
	}
	inBoth := map[string]uint32{} // directories
	if known && !opaque {
		d.parts = append(d.parts, x.dirParts(inode)...)
		for name, child := range x.below.List(inode) {
			if x.lay(&m, string(name), child) {
				inBoth[string(name)] = child
			}
		}
	}
	d.entries = slices.DeleteFunc(d.entries, func(e entry) bool { return e.hidden })
	slices.SortFunc(d.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	for i := range d.entries {
		e := &d.entries[i]
		if e.sub == nil || e.layer != 0 { // what is from below is whole
			continue
		}
		child, known := inBoth[e.name]
		if err := x.merge(e.sub, child, known); err != nil {
			return err
		}
	}
	return nil
}

// top reads what the top layer has in the directory.
func (x *extender) top(m *merging) (opaque bool, err error) {
	p := part{}
	if m.dir.parent != nil {
		p.path = path.Join(m.dir.parent.parts[0].path, m.dir.name)
	}
	m.dir.parts = append(m.dir.parts, p)
	marks, err := m.part(p)
	if err != nil {
		return false, err
	}
	if marks.Redirect != "" && !marks.Opaque {
		return false, fmt.Errorf("%w: a redirect", ErrNoBase)
	}
	for i := range m.dir.entries {
		if m.dir.entries[i].data != nil {
			return false, fmt.Errorf("%w: %q has only its metadata", ErrNoBase, m.dir.entries[i].name)
		}
	}
	return marks.Opaque, nil
}

// lay adds what is under a name below. It tells whether that is a directory that
// the top layer has, too.
func (x *extender) lay(m *merging, name string, child uint32) (both bool) {
	i, ok := m.seen[name]
	if !ok {
		m.dir.entries = append(m.dir.entries, x.entry(m.dir, name, child))
		return false
	}
	old := &m.dir.entries[i]
	if old.closed || x.below.Kind(child) != unix.S_IFDIR {
		return false
	}
	old.sub.layers = append(old.sub.layers, uint16(x.below.Layer(child)+1))
	return true
}

// entry copies a file of the index, and all below it, one layer further down.
func (x *extender) entry(parent *dir, name string, n uint32) entry {
	i, s := readInode(x.below.inode(n)), x.below.setOf(n)
	e := entry{name: name, layer: s.layer + 1, xattrs: string(x.below.str(s.xattrs)), attrs: attrs{
		dev: x.b.devs[0], ino: i.ino, size: i.size, blocks: uint64(i.blocks), nlink: uint64(i.nlink),
		mtime: i.mtime, ctime: i.ctime, atime: i.atime,
		mode: uint32(s.mode), uid: s.uid, gid: s.gid, blksize: s.blksize,
	}}
	switch s.kind() {
	case unix.S_IFDIR:
		// One layer: what its link count is was decided when base was made.
		e.sub = &dir{parent: parent, name: name, layers: []uint16{e.layer}, parts: x.dirParts(n)}
		for name, child := range x.below.List(n) {
			e.sub.entries = append(e.sub.entries, x.entry(e.sub, string(name), child))
		}
	case unix.S_IFLNK:
		e.link = string(x.below.str(i.a))
	case unix.S_IFCHR, unix.S_IFBLK:
		e.rdev = i.a
	case unix.S_IFREG:
		e.blocks |= uint64(i.a) << 32
		e.data = x.parts(s.parts)
	}
	return e
}

// dirParts are the parts of a directory below. The paths of those that were not moved
// are not known, and nobody asks for them.
func (x *extender) dirParts(n uint32) []part {
	s := x.below.setOf(n)
	if list := x.parts(s.parts); list != nil {
		return list
	}
	return []part{{layer: s.layer + 1}}
}

// parts reads a list of parts, one layer further down; nil for an empty one.
func (x *extender) parts(id uint32) (parts []part) {
	list := x.below.str(id)
	for i := range len(list) / partSize {
		p := part{layer: uint16(partLayer(list, i)) + 1}
		if path := partPath(list, i); path != none {
			p.moved, p.path = true, string(x.below.str(path))
		}
		parts = append(parts, p)
	}
	return parts
}
