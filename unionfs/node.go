package unionfs

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// firstUpperID is the node id of the first file that has no lower one. Ids
// below it are an [Inum] plus one, so that the root is FUSE's root, 1, and an
// untouched lower file needs no record at all.
const firstUpperID = 1 << 32

// node is the record of a file that the upper has, or that something happened
// to. Lower files that were only looked at have none.
type node struct {
	id   uint64
	low  Inum   // the lower file it is or was copied up from; noInum if none
	kind uint32 // S_IFMT
	ino  uint64

	// copying is held while the file or its data is brought up, and taken before any
	// other lock: whoever needs the file in the upper waits here, and nobody else.
	copying sync.Mutex

	upper atomic.Bool // the file is in the upper; it never goes back
	dir   *upperDir   // of a directory

	// meta says where the data is while the upper has only the metadata; nil: it has
	// both, and that stays so. It is set before upper, or before the record is found,
	// and taken away while copying is held.
	meta      atomic.Pointer[metacopy]
	completed atomic.Bool // meta was taken away

	// noCaps is of a regular file that was made here and given no capabilities since.
	noCaps atomic.Bool

	// mu guards places and pinned. Names are only taken away under FS.ns, too.
	mu     sync.Mutex
	places []place // its names in the upper that we know of
	pinned int     // O_PATH descriptor of a file without a name; -1 if none

	// guarded by nodeTable.mu:
	lookups  uint64
	upperIno uint64 // the key in nodeTable.byIno; 0: not there
	dead     bool   // dropped; whoever still finds it looks the file up again
}

// place is one name of a file in the upper.
type place struct {
	dir  *node
	name string
}

func (n *node) isDir() bool { return n.kind == unix.S_IFDIR }

// ref is a file of the view: a record, or an untouched lower file.
type ref struct {
	n   *node // nil: untouched
	low Inum
}

func (r ref) id() uint64 {
	if r.n != nil {
		return r.n.id
	}
	return uint64(r.low) + 1
}

// nodeTable finds records by node id and counts what the kernel holds. All
// methods may be called from several goroutines.
type nodeTable struct {
	mu     sync.RWMutex
	nextID uint64
	byID   map[uint64]*node
	// byIno finds, by their inode number in the upper, files with several names,
	// and directories: the record of one may outlive that of the directory it is in
	// (see keepsOrigins), and is found again when that is read anew.
	byIno map[uint64]*node

	low []*lowPage // grows under mu; the slots are used without it
}

// lowSlot is what there is to know of a lower file beside the tree.
type lowSlot struct {
	node    atomic.Pointer[node]
	lookups atomic.Int64
	gone    atomic.Bool // its name was removed from the view
}

const lowPageSize = 1024

type lowPage [lowPageSize]lowSlot

func newNodeTable() *nodeTable {
	return &nodeTable{nextID: firstUpperID, byID: make(map[uint64]*node), byIno: make(map[uint64]*node)}
}

// slot returns the slot of a lower file.
func (t *nodeTable) slot(n Inum) *lowSlot {
	page, k := int(n/lowPageSize), n%lowPageSize
	t.mu.RLock()
	if page < len(t.low) {
		defer t.mu.RUnlock()
		return &t.low[page][k]
	}
	t.mu.RUnlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	for page >= len(t.low) {
		t.low = append(t.low, new(lowPage))
	}
	return &t.low[page][k]
}

// touch returns the record of a lower file, made if there was none.
func (t *nodeTable) touch(low Inum, kind uint32, ino uint64) *node {
	slot := t.slot(low)
	if n := slot.node.Load(); n != nil {
		return n
	}
	n := &node{id: uint64(low) + 1, low: low, kind: kind, ino: ino, pinned: -1}
	if n.isDir() {
		n.dir = &upperDir{}
	}
	if !slot.node.CompareAndSwap(nil, n) {
		return slot.node.Load()
	}
	return n
}

// find is add for a file that was there before: it may have a record already, by
// another name or from before its directory was forgotten. several tells whether
// it has several names, and meta where its data is, if it is found to have only metadata.
func (t *nodeTable) find(kind uint32, ino, upperIno uint64, several bool, meta *metacopy, p place) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byIno[upperIno]
	switch {
	case n == nil || n.kind != kind:
		n = t.addLocked(kind, ino, upperIno, several, p)
		n.meta.Store(meta)
	case n.isDir():
		n.moveTo(p)
	default:
		n.addPlace(p)
	}
	return n
}

// add makes the record of a new file in the upper at p.
func (t *nodeTable) add(kind uint32, ino, upperIno uint64, p place) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.addLocked(kind, ino, upperIno, false, p)
}

func (t *nodeTable) addLocked(kind uint32, ino, upperIno uint64, several bool, p place) *node {
	n := &node{id: t.nextID, low: noInum, kind: kind, ino: ino, pinned: -1, places: []place{p}}
	n.upper.Store(true)
	if n.isDir() {
		n.dir = &upperDir{}
	}
	t.nextID++
	t.byID[n.id] = n
	if several || n.isDir() {
		n.upperIno = upperIno
		t.byIno[upperIno] = n
	}
	return n
}

func (n *node) addPlace(p place) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Contains(n.places, p) {
		n.places = append(n.places, p)
	}
}

// moveTo makes p the one place of a directory.
func (n *node) moveTo(p place) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.places = []place{p}
}

// gone takes a removed file out of byIno: its number may be another's as soon as
// nothing holds the file.
func (t *nodeTable) gone(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.goneLocked(n)
}

func (t *nodeTable) goneLocked(n *node) {
	if n.upperIno != 0 && t.byIno[n.upperIno] == n {
		delete(t.byIno, n.upperIno)
	}
	n.upperIno = 0
}

// shared notes that the upper file with this inode number has several names.
func (t *nodeTable) shared(n *node, upperIno uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.upperIno = upperIno
	t.byIno[upperIno] = n
}

// get returns what a node id from the kernel stands for.
func (fs *FS) get(id uint64) (ref, error) {
	if id < firstUpperID {
		low := Inum(id - 1)
		if id == 0 || !fs.tree.has(low) {
			return ref{}, fmt.Errorf("node %d: %w", id, unix.ESTALE)
		}
		return ref{fs.nodes.slot(low).node.Load(), low}, nil
	}
	fs.nodes.mu.RLock()
	defer fs.nodes.mu.RUnlock()
	n := fs.nodes.byID[id]
	if n == nil {
		return ref{}, fmt.Errorf("node %d: %w", id, unix.ESTALE)
	}
	return ref{n, n.low}, nil
}

// touch gives r a record.
func (fs *FS) touch(r ref) *node {
	if r.n != nil {
		return r.n
	}
	return fs.nodes.touch(r.low, fs.tree.kind(r.low), fs.tree.ino(r.low))
}

// remember counts one lookup that the kernel is told of. It fails if the record
// was dropped since it was found: then the file is looked up anew.
func (fs *FS) remember(r ref) bool {
	if r.low != noInum {
		fs.nodes.slot(r.low).lookups.Add(1)
		return true
	}
	fs.nodes.mu.Lock()
	defer fs.nodes.mu.Unlock()
	if r.n.dead {
		return false
	}
	r.n.lookups++
	return true
}

// forget takes back lookups; a file that the kernel holds no more gives up its
// record, where that says nothing that the upper does not say.
func (fs *FS) forget(id, count uint64) {
	if id == 1 {
		return
	}
	if id < firstUpperID {
		fs.forgetLow(Inum(id-1), int64(count))
		return
	}
	if n := fs.nodes.forget(id, count); n != nil {
		fs.detach(n)
	}
}

// forget returns the record if it is dropped.
func (t *nodeTable) forget(id, count uint64) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byID[id]
	if n == nil {
		return nil
	}
	n.lookups -= min(count, n.lookups)
	if n.lookups > 0 || n.keepsOrigins() {
		return nil
	}
	n.dead = true
	delete(t.byID, id)
	t.goneLocked(n)
	return n
}

// keepsOrigins tells whether dropping a directory's record would lose which
// lower files its entries were copied up from.
func (n *node) keepsOrigins() bool { return n.dir != nil && n.dir.origins.Load() > 0 }

// detach takes a dropped record out of the directories that point to it and
// closes what it held open.
func (fs *FS) detach(n *node) {
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	n.mu.Lock()
	places := n.places
	n.mu.Unlock()
	for _, p := range places {
		d := p.dir.dir
		d.mu.Lock()
		if e := d.entries[p.name]; e != nil && e.node == n {
			e.node = nil
		}
		d.mu.Unlock()
	}
	fs.closeNode(n)
}

// closeNode closes the descriptors of a file that the kernel holds no more.
func (fs *FS) closeNode(n *node) {
	fs.nodes.gone(n) // before the number can be used again
	fs.fds.drop(fdKey{kind: fileFD, id: n.id})
	fs.fds.drop(fdKey{kind: upperDirFD, id: n.id})
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pinned >= 0 {
		_ = unix.Close(n.pinned) // O_PATH
		n.pinned = -1
	}
}

// forgetLow closes what only an open file still needed of a lower file. The
// record of one that lives in the upper stays: the upper alone does not say where
// it came from.
func (fs *FS) forgetLow(low Inum, count int64) {
	if !fs.tree.has(low) {
		return
	}
	slot := fs.nodes.slot(low)
	if slot.lookups.Add(-count) > 0 || !slot.gone.Load() {
		return
	}
	fs.fds.drop(fdKey{kind: lowerFileFD, id: uint64(low)})
	n := slot.node.Load()
	if n == nil {
		return
	}
	n.mu.Lock()
	nameless := len(n.places) == 0
	n.mu.Unlock()
	if nameless && slot.node.CompareAndSwap(n, nil) {
		fs.closeNode(n)
	}
}
