package unionfs

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// load returns the merged directory n, merging it if that was not done yet.
func (t *Tree) load(n Inum) (*lowerDir, error) {
	i := t.inode(n)
	if d := i.dir.Load(); d != nil {
		return d, nil
	}
	if i.kind != unix.S_IFDIR {
		return nil, fmt.Errorf("%q: %w", i.name, unix.ENOTDIR)
	}
	i.loading.Lock()
	defer i.loading.Unlock()
	if d := i.dir.Load(); d != nil {
		return d, nil
	}
	m := merge{tree: t, dir: n, seen: make(map[string]*merged)}
	if !i.cut {
		if err := m.layers(i.layers); err != nil {
			return nil, err
		}
	}
	d := m.finish()
	i.dir.Store(d)
	return d, nil
}

// merge puts one directory together from its layers, top first.
type merge struct {
	tree   *Tree
	dir    Inum
	prefix string // path of dir with a final slash, where a layer has cuts
	seen   map[string]*merged
}

// merged is one name: where it was found, or that it is hidden.
type merged struct {
	layers []uint16 // empty: hidden
	kind   uint32
	ino    uint64
	cut    bool
	closed bool // nothing of the layers below belongs to it
}

func (m *merge) layers(layers []uint16) error {
	if p := m.tree.path(m.dir); p != "" {
		m.prefix = p + "/"
	}
	i := m.tree.inode(m.dir)
	i.parts, i.moved = nil, nil // of an attempt that failed
	for len(layers) > 0 {
		layer := layers[0]
		i.parts = append(i.parts, layer)
		marks, err := m.layer(layer)
		switch {
		case err != nil:
			return err
		case marks.Opaque:
			return nil
		case marks.Redirect != "":
			if layers, err = m.follow(layer, marks.Redirect); err != nil {
				return err
			}
		default:
			layers = layers[1:]
		}
	}
	return nil
}

// follow finds what a directory of layer continues that was moved.
func (m *merge) follow(layer uint16, redirect string) (layers []uint16, err error) {
	i := m.tree.inode(m.dir)
	parts, err := m.continues(i, layer, redirect)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if i.moved == nil {
			i.moved = make(map[uint16]string)
		}
		i.moved[uint16(p.Layer)] = p.Path
		layers = append(layers, uint16(p.Layer))
	}
	return layers, nil
}

// continues resolves a redirect of the directory i in layer.
func (m *merge) continues(i *inode, layer uint16, redirect string) ([]whiteout.Part, error) {
	if strings.HasPrefix(redirect, "/") || i.parent == noInum {
		return whiteout.Resolve(m.tree.roots, int(layer)+1, redirect)
	}
	return whiteout.Step(m.tree.roots, m.tree.partsFrom(i.parent, layer+1), redirect)
}

// partsFrom are the parts of a merged directory in a layer and those below it.
func (t *Tree) partsFrom(dir Inum, layer uint16) (parts []whiteout.Part) {
	for _, l := range t.inode(dir).parts {
		if l >= layer {
			parts = append(parts, whiteout.Part{Layer: int(l), Path: t.pathIn(dir, l)})
		}
	}
	return parts
}

// layer adds what one layer says and returns what marks the directory there.
func (m *merge) layer(layer uint16) (marks whiteout.Marks, err error) {
	dir, err := m.tree.dirFD(layer, m.dir)
	if err != nil {
		return marks, err
	}
	defer dir.release()
	fd, err := at.OpenDir(dir.fd, ".") // with a position of its own
	if err != nil {
		return marks, err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	list, err := whiteout.Read(fd)
	if err != nil {
		return marks, err
	}
	m.tree.override.kinds(fd, list.Entries)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return marks, err
	}
	for _, e := range list.Entries {
		m.entry(layer, e, st.Dev)
	}
	for _, name := range list.Hidden {
		m.hide(name)
	}
	if int(layer) == len(m.tree.layers)-1 || list.Opaque { // nothing below
		return whiteout.Marks{Opaque: true}, nil
	}
	return whiteout.ReadMarks(fd)
}

func (m *merge) entry(layer uint16, e at.Dirent, dev uint64) {
	kind := uint32(e.Type) << 12
	old := m.seen[e.Name]
	if old == nil {
		cut := m.tree.layers[layer].cut[m.prefix+e.Name]
		if cut {
			kind = unix.S_IFDIR
		}
		m.seen[e.Name] = &merged{
			layers: []uint16{layer}, kind: kind, cut: cut,
			ino: m.tree.devs.ino(dev, e.Ino), closed: cut || kind != unix.S_IFDIR,
		}
		return
	}
	switch {
	case old.closed:
	case kind == unix.S_IFDIR && !m.tree.layers[layer].cut[m.prefix+e.Name]:
		old.layers = append(old.layers, layer)
	default: // a file below a directory
		old.closed = true
	}
}

// hide closes a name for the layers below the one that hides it.
func (m *merge) hide(name string) {
	if old := m.seen[name]; old != nil {
		old.closed = true
		return
	}
	m.seen[name] = &merged{closed: true}
}

// finish numbers the names that are to be seen and sorts them.
func (m *merge) finish() *lowerDir {
	d := &lowerDir{}
	for name, e := range m.seen {
		if len(e.layers) > 0 {
			d.names = append(d.names, lowerName{name: name, ino: e.ino, kind: e.kind})
		}
	}
	slices.SortFunc(d.names, func(a, b lowerName) int { return strings.Compare(a.name, b.name) })
	t := m.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range d.names {
		n := &d.names[k]
		e := m.seen[n.name]
		n.inum = Inum(len(t.inodes))
		if e.cut {
			n.ino = cutIno | uint64(n.inum)
		}
		t.inodes = append(t.inodes, &inode{
			parent: m.dir, name: n.name, kind: e.kind, layers: e.layers, cut: e.cut,
		})
	}
	return d
}

// cutIno marks the made-up inode numbers of cut directories.
const cutIno = 1 << 62

// devTable makes inode numbers of several devices unique, since the union shows
// one device: the number of the device, in order of appearance, is mixed into
// the upper bits. The first device keeps its numbers as they are.
type devTable struct {
	mu   sync.RWMutex
	devs []uint64
}

func (d *devTable) ino(dev, ino uint64) uint64 {
	d.mu.RLock()
	k := slices.Index(d.devs, dev)
	d.mu.RUnlock()
	if k < 0 {
		d.mu.Lock()
		if k = slices.Index(d.devs, dev); k < 0 {
			k = len(d.devs)
			d.devs = append(d.devs, dev)
		}
		d.mu.Unlock()
	}
	return ino ^ uint64(k)<<48
}
