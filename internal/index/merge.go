package index

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// dir is a directory of the merged tree.
type dir struct {
	parent  *dir // nil of the root
	name    string
	layers  []uint16 // where its name is, top first
	parts   []part   // what it is made of, top first
	entries []entry  // sorted by name
}

// entry is one name of a directory, or, while that is merged, one that is hidden.
type entry struct {
	name   string
	layer  uint16
	hidden bool // there is nothing but a whiteout
	closed bool // nothing of the layers below belongs to it
	sub    *dir // what it is, if a directory

	attrs
	data   []part // of a file that has only its metadata in layer: that, and where the data is
	link   string // where a symbolic link leads
	xattrs string // as appendXattr makes them
}

// attrs is what is kept of a unix.Stat_t, in half the room.
type attrs struct {
	dev, ino, size, blocks, nlink uint64
	mtime, ctime, atime           uint64
	mode, uid, gid, rdev, blksize uint32
}

// from lists the parts of d in a layer and those below it.
func (d *dir) from(layer int) (parts []whiteout.Part) {
	for _, p := range d.parts {
		if int(p.layer) >= layer {
			parts = append(parts, whiteout.Part{Layer: int(p.layer), Path: p.path})
		}
	}
	return parts
}

// candidates is where the names say that d is.
// Preconditions: its parent is merged, and has a part in each layer of d.
func (d *dir) candidates() []part {
	parts := make([]part, 0, len(d.layers))
	if d.parent == nil {
		for _, l := range d.layers {
			parts = append(parts, part{layer: l})
		}
		return parts
	}
	above := d.parent.parts
	for _, l := range d.layers {
		for above[0].layer != l { // both are in order
			above = above[1:]
		}
		parts = append(parts, part{layer: l, path: path.Join(above[0].path, d.name)})
	}
	return parts
}

// merging puts one directory together from its parts, top first.
type merging struct {
	b    *builder
	dir  *dir
	seen map[string]int // name: place in dir.entries
}

// merge merges d and returns the directories in it.
func (b *builder) merge(d *dir) (found []*dir, err error) {
	m := merging{b: b, dir: d, seen: make(map[string]int)}
	for todo := d.candidates(); len(todo) > 0; {
		p := todo[0]
		d.parts = append(d.parts, p)
		marks, err := m.part(p)
		switch {
		case err != nil:
			return nil, fmt.Errorf("layer %d: /%s: %w", p.layer, p.path, err)
		case marks.Opaque:
			todo = nil
		case marks.Redirect != "":
			if todo, err = b.follow(d, p, marks.Redirect); err != nil {
				return nil, fmt.Errorf("layer %d: /%s: redirect to %q: %w", p.layer, p.path, marks.Redirect, err)
			}
		default:
			todo = todo[1:]
		}
	}
	if err := b.findData(d); err != nil {
		return nil, err
	}
	d.entries = slices.DeleteFunc(d.entries, func(e entry) bool { return e.hidden })
	slices.SortFunc(d.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	for i := range d.entries {
		if sub := d.entries[i].sub; sub != nil {
			found = append(found, sub)
		}
	}
	return found, nil
}

// part adds what one layer says and returns what marks the directory there.
func (m *merging) part(p part) (whiteout.Marks, error) {
	fd, err := m.b.open(p)
	if err != nil {
		return whiteout.Marks{}, err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	list, err := whiteout.Read(fd)
	if err != nil {
		return whiteout.Marks{}, err
	}
	m.dir.entries = slices.Grow(m.dir.entries, len(list.Entries))
	for i := range list.Entries {
		if err := m.add(fd, p.layer, &list.Entries[i]); err != nil {
			return whiteout.Marks{}, err
		}
	}
	for _, name := range list.Hidden {
		m.hide(name)
	}
	if int(p.layer) == len(m.b.roots)-1 || list.Opaque { // nothing below
		return whiteout.Marks{Opaque: true}, nil
	}
	return whiteout.ReadMarks(fd)
}

// add adds the file that a layer has under a name.
func (m *merging) add(fd int, layer uint16, file *at.Dirent) error {
	i, ok := m.seen[file.Name]
	if !ok {
		e := entry{name: file.Name}
		if err := e.read(fd, file.Name, layer); err != nil {
			return err
		}
		if e.mode&unix.S_IFMT == unix.S_IFDIR {
			e.sub = &dir{parent: m.dir, name: e.name, layers: []uint16{layer}}
		}
		e.closed = e.sub == nil
		m.seen[e.name] = len(m.dir.entries)
		m.dir.entries = append(m.dir.entries, e)
		return nil
	}
	switch old := &m.dir.entries[i]; {
	case old.closed:
	case file.Type == unix.DT_DIR:
		old.sub.layers = append(old.sub.layers, layer)
	default: // a file below a directory
		old.closed = true
	}
	return nil
}

// hide closes a name for the layers below the one that hides it.
func (m *merging) hide(name string) {
	if i, ok := m.seen[name]; ok {
		m.dir.entries[i].closed = true
		return
	}
	m.seen[name] = len(m.dir.entries)
	m.dir.entries = append(m.dir.entries, entry{name: name, hidden: true, closed: true})
}

// read reads what there is to know of name in the directory behind fd.
func (e *entry) read(fd int, name string, layer uint16) (err error) {
	e.layer = layer
	var st unix.Stat_t
	if err := at.Stat(fd, name, &st); err != nil {
		return err
	}
	e.attrs = attrs{
		dev: st.Dev, ino: st.Ino, size: uint64(st.Size), blocks: uint64(st.Blocks), nlink: uint64(st.Nlink),
		mtime: packTime(st.Mtim), ctime: packTime(st.Ctim), atime: packTime(st.Atim),
		mode: st.Mode, uid: st.Uid, gid: st.Gid, blksize: uint32(st.Blksize),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		e.link, err = at.Readlink(fd, name)
	case unix.S_IFCHR, unix.S_IFBLK:
		e.rdev, err = packDevice(st.Rdev)
	}
	if err != nil {
		return err
	}
	return e.readXattrs(fd, name)
}

// readXattrs reads the attributes that a view shows, and whether the data is here.
func (e *entry) readXattrs(fd int, name string) error {
	attrs, err := at.Listxattr(fd, name)
	if err != nil || len(attrs) == 0 {
		return err
	}
	slices.Sort(attrs)
	var list []byte
	for _, attr := range attrs {
		if whiteout.PrivateAttr(attr) {
			if whiteout.IsMetacopyAttr(attr) && e.mode&unix.S_IFMT == unix.S_IFREG {
				e.data = []part{{layer: e.layer}} // findData looks for it
			}
			continue
		}
		value, err := at.Getxattr(fd, name, attr)
		if err != nil {
			return err
		}
		list = appendXattr(list, attr, value)
	}
	e.xattrs = string(list)
	return nil
}
