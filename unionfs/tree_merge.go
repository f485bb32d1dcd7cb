package unionfs

import (
	"cmp"
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
	m := merge{tree: t, dir: n}
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
	prefix string  // path of dir with a final slash, where a layer has cuts
	said   []named // by the layers, top first; of one layer, what it has before what it hides
}

// named is what one layer says of a name: that it has it, or that it hides it.
type named struct {
	name  string
	ino   uint64
	kind  uint32
	order uint32 // in which it was said
	layer uint16
	hides bool
	cut   bool
}

func (m *merge) layers(layers []uint16) error {
	if m.tree.cuts && m.dir != 0 {
		m.prefix = m.tree.path(m.dir) + "/"
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

// layer adds what one layer says and returns what marks the directory there. A cached
// descriptor of a lower directory is read here alone, and a directory is merged by one
// at a time, so its position is nobody else's.
func (m *merge) layer(layer uint16) (marks whiteout.Marks, err error) {
	dir, err := m.tree.dirFD(layer, m.dir)
	if err != nil {
		return marks, err
	}
	defer dir.release()
	list, err := whiteout.Read(dir.fd)
	if err != nil {
		return marks, err
	}
	m.tree.override.kinds(dir.fd, list.Entries)
	var st unix.Stat_t
	if err := unix.Fstat(dir.fd, &st); err != nil {
		return marks, err
	}
	for _, e := range list.Entries {
		m.entry(layer, e, st.Dev)
	}
	for _, name := range list.Hidden {
		m.say(named{name: name, layer: layer, hides: true})
	}
	if int(layer) == len(m.tree.layers)-1 || list.Opaque { // nothing below
		return whiteout.Marks{Opaque: true}, nil
	}
	return whiteout.ReadMarks(dir.fd)
}

func (m *merge) entry(layer uint16, e at.Dirent, dev uint64) {
	n := named{name: e.Name, layer: layer, kind: uint32(e.Type) << 12, ino: m.tree.devs.ino(dev, e.Ino)}
	if m.tree.cuts && m.tree.layers[layer].cut[m.prefix+e.Name] {
		n.cut, n.kind = true, unix.S_IFDIR
	}
	m.say(n)
}

func (m *merge) say(n named) {
	n.order = uint32(len(m.said))
	m.said = append(m.said, n)
}

// finish numbers the names that are to be seen, sorted.
func (m *merge) finish() *lowerDir {
	slices.SortFunc(m.said, func(a, b named) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.order, b.order))
	})
	d := &lowerDir{names: make([]lowerName, 0, len(m.said))}
	inodes := make([]inode, 0, len(m.said)) // one piece of memory for all
	for rest := m.said; len(rest) > 0; {
		count := 1
		for count < len(rest) && rest[count].name == rest[0].name {
			count++
		}
		top := rest[0]
		if !top.hides {
			d.names = append(d.names, lowerName{name: top.name, ino: top.ino, kind: top.kind})
			inodes = append(inodes, inode{
				parent: m.dir, name: top.name, kind: top.kind, layers: m.partsOf(rest[:count]), cut: top.cut,
			})
		}
		rest = rest[count:]
	}
	m.number(d, inodes)
	return d
}

// partsOf are the layers that have a part in the file of which they say this: the
// first alone, and with a directory those below it up to one that has none.
func (m *merge) partsOf(said []named) []uint16 {
	top := said[0]
	count := 1
	if top.kind == unix.S_IFDIR && !top.cut {
		for count < len(said) && said[count].kind == unix.S_IFDIR && !said[count].cut && !said[count].hides {
			count++
		}
	}
	if count == 1 {
		return m.tree.alone[top.layer : top.layer+1 : top.layer+1]
	}
	layers := make([]uint16, count)
	for k := range layers {
		layers[k] = said[k].layer
	}
	return layers
}

// number adds inodes, those of the names of d, to the tree.
func (m *merge) number(d *lowerDir, inodes []inode) {
	t := m.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range inodes {
		n := &d.names[k]
		n.inum = Inum(len(t.inodes))
		if inodes[k].cut {
			n.ino = cutIno | uint64(n.inum)
		}
		t.inodes = append(t.inodes, &inodes[k])
	}
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
