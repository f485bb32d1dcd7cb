package unionfs

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/copyup"
	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// upperDir is what the upper says of one directory: only that. Names it does not
// mention are as the lower directory has them. It is read from the disk once, when
// the directory is first looked at, and kept true by every operation since, for
// nobody else writes to the upper.
//
// Whoever reads it holds FS.ns at least for reading. Names are added under mu
// besides, and taken away under FS.ns for writing.
type upperDir struct {
	mu      sync.RWMutex
	plain   bool // it is known to hand nothing down to what is made in it
	loaded  bool
	removed bool
	low     Inum // the lower directory that shows through; noInum: none, or hidden
	entries map[string]*upperEntry
	added   []*upperEntry // those that are not in the place of a lower name, by seq
	nextSeq uint64
	origins atomic.Int64 // entries that were copied up
}

// upperEntry is one name that the upper mentions.
type upperEntry struct {
	name   string
	hidden bool // a whiteout
	marker bool // hidden, or in the place of a lower file: there is a whiteout on the disk to remove (OCI)
	kind   uint32
	origin Inum // the lower file it was copied up from; noInum if none
	ino    uint64
	node   *node  // nil: nobody looked it up yet, or it was forgotten
	seq    uint64 // place in upperDir.added; 0 if in the place of a lower name
}

// load reads the directory n from the upper, if that was not done yet.
// Preconditions: fs.ns is held for reading.
func (fs *FS) loadDir(n *node) (*upperDir, error) {
	d := n.dir
	d.mu.RLock()
	loaded := d.loaded
	d.mu.RUnlock()
	if loaded {
		return d, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.loaded {
		return d, nil
	}
	d.low = n.low
	d.entries = make(map[string]*upperEntry)
	if n.upper.Load() {
		if n.id == 1 && fs.opaqueRoot {
			d.low = noInum
		}
		if err := fs.readUpper(n, d); err != nil {
			return nil, err
		}
	}
	d.loaded = true
	return d, nil
}

// beginEmpty is load for a directory that was just brought up: the upper says nothing
// of it yet.
func (d *upperDir) beginEmpty(low Inum) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.loaded {
		d.loaded, d.low, d.entries = true, low, make(map[string]*upperEntry)
	}
}

func (fs *FS) readUpper(n *node, d *upperDir) error {
	dir, err := fs.upperFD(n)
	if err != nil {
		return err
	}
	defer dir.release()
	fd, err := at.OpenDir(dir.fd, ".") // with a position of its own
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	list, err := whiteout.Read(fd)
	if err != nil {
		return err
	}
	fs.opt.Override.kinds(fd, list.Entries)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	for _, name := range list.Hidden {
		if err := fs.insertLocked(d, &upperEntry{name: name, hidden: true, marker: true, origin: noInum}); err != nil {
			return err
		}
	}
	for _, e := range list.Entries {
		marker := d.entries[e.Name] != nil
		entry := &upperEntry{name: e.Name, kind: uint32(e.Type) << 12, origin: noInum, marker: marker}
		if entry.ino = copyup.Ino(fd, e.Name); entry.ino == 0 {
			entry.ino = fs.tree.unique(st.Dev, e.Ino)
		}
		if err := fs.insertLocked(d, entry); err != nil {
			return err
		}
	}
	return nil
}

// insertLocked puts e in the place of whatever has its name. Among the added names it
// comes last, or where e.seq says: a name that a rename gives to another file stays
// where it is, so that who reads the directory meanwhile sees it once.
// Preconditions: d.mu is held.
func (fs *FS) insertLocked(d *upperDir, e *upperEntry) error {
	old := d.entries[e.name]
	_, inLower, err := fs.lowerChild(d, e.name)
	if err != nil {
		return err
	}
	if old != nil {
		d.takeOutLocked(old)
	}
	d.entries[e.name] = e
	if e.origin != noInum {
		d.origins.Add(1)
	}
	if inLower || e.hidden {
		return nil
	}
	if e.seq == 0 {
		d.nextSeq++
		e.seq = d.nextSeq
	}
	k, _ := slices.BinarySearchFunc(d.added, e.seq, bySeq)
	d.added = slices.Insert(d.added, k, e)
	return nil
}

// seqOf is the place of a name among the added ones; 0 if it has none there.
// Preconditions: d.mu is held, or fs.ns for writing.
func (d *upperDir) seqOf(name string) uint64 {
	if e := d.entries[name]; e != nil {
		return e.seq
	}
	return 0
}

// takeOutLocked removes e, leaving no mark of it.
// Preconditions: d.mu is held, or fs.ns for writing.
func (d *upperDir) takeOutLocked(e *upperEntry) {
	delete(d.entries, e.name)
	if e.origin != noInum {
		d.origins.Add(-1)
	}
	if e.seq == 0 {
		return
	}
	if k, ok := slices.BinarySearchFunc(d.added, e.seq, bySeq); ok {
		d.added = deleteAt(d.added, k)
	}
}

// deleteAt removes one element by moving the fewer others: who removes all names of a
// directory does so from its front.
func deleteAt(list []*upperEntry, k int) []*upperEntry {
	if k >= len(list)/2 {
		return slices.Delete(list, k, k+1)
	}
	copy(list[1:k+1], list[:k])
	list[0] = nil
	return list[1:]
}

func bySeq(e *upperEntry, seq uint64) int {
	switch {
	case e.seq < seq:
		return -1
	case e.seq > seq:
		return 1
	}
	return 0
}

// lowerChild finds name in the lower directory under d, whether or not the upper
// hides it.
func (fs *FS) lowerChild(d *upperDir, name string) (Inum, bool, error) {
	if d.low == noInum {
		return noInum, false, nil
	}
	return fs.tree.lookup(d.low, name)
}

// childLocked finds name in the directory n.
// Preconditions: fs.ns is held for reading; no upperDir.mu is held.
func (fs *FS) childLocked(n *node, name string) (ref, bool, error) {
	d, err := fs.loadDir(n)
	if err != nil {
		return ref{}, false, err
	}
	d.mu.RLock()
	e := d.entries[name]
	if e != nil && (e.hidden || e.node != nil) {
		defer d.mu.RUnlock()
		if e.hidden {
			return ref{}, false, nil
		}
		return ref{e.node, e.node.low}, true, nil
	}
	d.mu.RUnlock()
	if e != nil {
		return fs.adopt(n, d, name)
	}
	low, ok, err := fs.lowerChild(d, name)
	if !ok || err != nil {
		return ref{}, false, err
	}
	return fs.lowerRef(low)
}

// adopt makes the record of a file that is found in the upper.
func (fs *FS) adopt(parent *node, d *upperDir, name string) (ref, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[name]
	switch {
	case e == nil || e.hidden:
		return ref{}, false, nil
	case e.node != nil:
		return ref{e.node, e.node.low}, true, nil
	}
	low, err := fs.lowerOf(parent, d, e)
	if err != nil {
		return ref{}, false, err
	}
	p := place{parent, name}
	if low != noInum {
		n := fs.nodes.touch(low, e.kind, fs.tree.ino(low))
		n.addPlace(p)
		n.upper.Store(true)
		e.node, e.ino = n, n.ino
		if e.origin == noInum { // from now on this directory knows what its entry continues
			e.origin = low
			d.origins.Add(1)
		}
		return ref{n, low}, true, nil
	}
	var st unix.Stat_t
	dir, err := fs.upperFD(parent)
	if err != nil {
		return ref{}, false, err
	}
	defer dir.release()
	if err := at.Stat(dir.fd, name, &st); err != nil {
		return ref{}, false, stale(err)
	}
	meta, err := fs.metacopyOf(d, dir.fd, e, &st)
	if err != nil {
		return ref{}, false, err
	}
	e.node = fs.nodes.find(e.kind, e.ino, st.Ino, st.Nlink > 1, meta, p)
	return ref{e.node, e.node.low}, true, nil
}

// lowerBehind finds the lower file of a name of the upper: where its redirect says,
// byPath if that begins at the root, or else by the name itself.
// Preconditions: d.mu is held.
func (fs *FS) lowerBehind(d *upperDir, e *upperEntry, redirect string, byPath func(lowers, string) (Inum, bool, error)) (Inum, bool, error) {
	switch {
	case strings.HasPrefix(redirect, "/"):
		return byPath(fs.tree, redirect)
	case redirect != "":
		return fs.lowerChild(d, redirect)
	case !e.marker:
		return fs.lowerChild(d, e.name)
	}
	return noInum, false, nil
}

// lowerOf returns the lower file that an entry of the upper continues: the one
// it was copied up from in this mount, or the directory that shows through it,
// which is the one of its name or the one that it is redirected to.
// Preconditions: d.mu is held.
func (fs *FS) lowerOf(parent *node, d *upperDir, e *upperEntry) (Inum, error) {
	if e.origin != noInum || e.kind != unix.S_IFDIR {
		return e.origin, nil
	}
	marks, err := fs.upperMarks(parent, e.name)
	if err != nil || marks.Opaque {
		return noInum, err
	}
	low, ok, err := fs.lowerBehind(d, e, marks.Redirect, lowerDirOf)
	if err != nil || !ok || fs.tree.kind(low) != unix.S_IFDIR {
		return noInum, err
	}
	if n := fs.nodes.slot(low).node.Load(); n != nil && elsewhere(n, place{parent, e.name}) {
		return noInum, nil
	}
	return low, nil
}

// upperMarks reads what the directory name in parent, in the upper, says of the
// layers. A redirect counts even beside the marker file of the OCI dialect, for
// which the name alone is opaque.
func (fs *FS) upperMarks(parent *node, name string) (whiteout.Marks, error) {
	dir, err := fs.upperFD(parent)
	if err != nil {
		return whiteout.Marks{}, err
	}
	defer dir.release()
	fd, err := at.OpenDir(dir.fd, name)
	if err != nil {
		return whiteout.Marks{}, stale(err)
	}
	defer func() { _ = unix.Close(fd) }() // read only
	marks, err := whiteout.ReadMarks(fd)
	if err == nil && !marks.Opaque && marks.Redirect == "" {
		marks.Opaque, err = at.Exists(fd, whiteout.OpaqueName)
	}
	return marks, err
}

// upperFD opens the directory n of the upper. The caller releases it.
// Preconditions: fs.ns is held for reading.
func (fs *FS) upperFD(n *node) (*openFD, error) {
	key := fdKey{kind: upperDirFD, id: n.id}
	if o := fs.fds.get(key, false); o != nil {
		return o, nil
	}
	var fd int
	err := fs.atUpper(n, func(dir int, name string) (err error) {
		if name == "" {
			name = "."
		}
		fd, err = at.OpenDir(dir, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return fs.fds.put(key, fd, false), nil
}

// atOpen calls fn with the descriptor of n in the upper and "", if it is open: that
// spares the kernel to look for the name.
func (fs *FS) atOpen(n *node, fn func(dir int, name string) error) (done bool, err error) {
	kind := fileFD
	if n.isDir() {
		kind = upperDirFD
	}
	o := fs.fds.get(fdKey{kind: kind, id: n.id}, false)
	if o == nil {
		return false, nil
	}
	defer o.release()
	return true, fn(o.fd, "")
}

// atUpper calls fn with a descriptor of a directory that n is in, in the upper,
// and its name there; for the root, a directory that is open, and a file without a
// name, with the file itself and "".
// Preconditions: fs.ns is held for reading, and n is in the upper.
func (fs *FS) atUpper(n *node, fn func(dir int, name string) error) error {
	if n.id == 1 {
		return fn(fs.upper, "")
	}
	if n.isDir() {
		if done, err := fs.atOpen(n, fn); done {
			return err
		}
	}
	n.mu.Lock()
	pinned := n.pinned
	var p place
	if len(n.places) > 0 {
		p = n.places[0]
	}
	n.mu.Unlock()
	if p.dir == nil {
		if pinned < 0 {
			return unix.ESTALE
		}
		return fn(pinned, "")
	}
	dir, err := fs.upperFD(p.dir)
	if err != nil {
		return err
	}
	defer dir.release()
	if err := fn(dir.fd, p.name); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return unix.ESTALE // somebody else removed it from the upper
}
