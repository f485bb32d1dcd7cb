package unionfs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// Unlink removes a name of something that is not a directory.
func (fs *FS) Unlink(_ <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	return status(fs.remove(header.NodeId, name, false))
}

// Rmdir removes an empty directory: empty as the view shows it.
func (fs *FS) Rmdir(_ <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	return status(fs.remove(header.NodeId, name, true))
}

func (fs *FS) remove(parent uint64, name string, isDir bool) error {
	r, err := fs.get(parent)
	if err != nil {
		return err
	}
	dir, err := fs.up(r)
	if err != nil {
		return err
	}
	if err := fs.upIfLinked(dir, name); err != nil {
		return err
	}
	trash, err := fs.removeFrom(dir, name, isDir)
	if trash != "" {
		// What is left of a directory that is gone from the view; what can not be
		// removed now is swept at the next mount.
		_ = at.RemoveAll(fs.work, trash)
	}
	return err
}

// upIfLinked brings up a lower file that has other names, too: so the count of
// those that stay is right, also in the next mount.
func (fs *FS) upIfLinked(dir *node, name string) error {
	child, found, err := fs.child(ref{dir, dir.low}, name)
	if err != nil || !found || child.low == noInum || (child.n != nil && child.n.upper.Load()) {
		return err // not found: told under the lock
	}
	names, err := fs.tree.names(child.low)
	if err != nil || len(names) == 1 {
		return err
	}
	_, err = fs.up(child)
	return err
}

// removeFrom removes name from parent. If it returns a name, that is something
// in the work directory that the caller removes, outside of the lock.
func (fs *FS) removeFrom(parent *node, name string, isDir bool) (trash string, err error) {
	fs.ns.Lock()
	defer fs.ns.Unlock()
	v, err := fs.victimLocked(parent, name)
	if err != nil {
		return "", err
	}
	defer v.dir.release()
	if !v.found {
		return "", unix.ENOENT
	}
	if err := fs.mayRemove(v, isDir); err != nil {
		return "", err
	}
	if err := fs.pin(v); err != nil {
		return "", err
	}
	trash, err = fs.eraseLocked(v)
	if err != nil {
		return trash, err
	}
	return trash, fs.leaveLocked(v)
}

// victim is a name that is to be taken away, with all there is to know of it.
type victim struct {
	parent *node
	d      *upperDir
	dir    *openFD // parent, in the upper; released by whoever asked
	name   string

	found   bool // the view shows it
	r       ref
	kind    uint32
	inUpper bool // there is a file of this name in the upper
	marker  bool // there is a whiteout of this name in the upper
	inLower bool // the layers below have the name, seen or hidden
}

// victimLocked looks at name in parent, which is in the upper.
// Preconditions: fs.ns is held for writing.
func (fs *FS) victimLocked(parent *node, name string) (v *victim, err error) {
	v = &victim{parent: parent, name: name}
	if v.r, v.found, err = fs.childLocked(parent, name); err != nil {
		return nil, err
	}
	if v.d, err = fs.loadDir(parent); err != nil {
		return nil, err
	}
	if _, v.inLower, err = fs.lowerChild(v.d, name); err != nil {
		return nil, err
	}
	if e := v.d.entries[name]; e != nil {
		v.inUpper, v.marker, v.kind = !e.hidden, e.marker, e.kind
	} else if v.found {
		v.kind = fs.tree.kind(v.r.low)
	}
	v.dir, err = fs.upperFD(parent)
	return v, err
}

func (v *victim) isDir() bool { return v.kind == unix.S_IFDIR }

// mayRemove checks what rmdir(2) and unlink(2) promise.
// Preconditions: fs.ns is held for writing.
func (fs *FS) mayRemove(v *victim, isDir bool) error {
	switch {
	case isDir && !v.isDir():
		return unix.ENOTDIR
	case !isDir && v.isDir():
		return unix.EISDIR
	case !isDir:
		return nil
	}
	if v.r.low != noInum && fs.tree.isCut(v.r.low) {
		return unix.EBUSY
	}
	empty, err := fs.emptyLocked(v.r)
	return errors.Join(err, errIf(err == nil && !empty, unix.ENOTEMPTY))
}

// emptyLocked tells whether the view shows nothing in a directory.
// Preconditions: fs.ns is held.
func (fs *FS) emptyLocked(r ref) (bool, error) {
	if r.n == nil {
		count, err := fs.tree.count(r.low)
		return err == nil && count == 0, err
	}
	d, err := fs.loadDir(r.n)
	if err != nil {
		return false, err
	}
	for _, e := range d.entries {
		if !e.hidden {
			return false, nil
		}
	}
	if d.low == noInum {
		return true, nil
	}
	count, err := fs.tree.count(d.low)
	if err != nil {
		return false, err
	}
	for k := range count {
		if d.entries[fs.tree.child(d.low, k).name] == nil {
			return false, nil
		}
	}
	return true, nil
}

// pin keeps an upper file that loses its last name reachable for those who have
// it open. A lower one stays where it is.
// Preconditions: fs.ns is held for writing.
func (fs *FS) pin(v *victim) error {
	n := v.r.n
	if n == nil || !v.inUpper {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.places) > 1 || n.pinned >= 0 {
		return nil
	}
	fd, err := at.Open(v.dir.fd, v.name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	n.pinned = fd
	return nil
}

// eraseLocked takes the name out of the upper and hides the one below, so that
// at no moment the lower file is seen again. See removeFrom for what it returns.
// Preconditions: fs.ns is held for writing.
func (fs *FS) eraseLocked(v *victim) (trash string, err error) {
	switch d := fs.dialectFor(v.name); {
	case !v.inUpper:
		return "", d.Hide(v.dir.fd, v.name)
	case d == whiteout.OCI:
		return fs.eraseOCI(v)
	case v.inLower:
		return fs.replaceByWhiteout(v)
	case v.isDir():
		return fs.eraseDir(v)
	}
	return "", at.Unlink(v.dir.fd, v.name)
}

// dialectFor is the dialect to hide name in: a name that is too long to get the
// prefix of an OCI whiteout is hidden by a device, which is read as well.
func (fs *FS) dialectFor(name string) whiteout.Dialect {
	if len(whiteout.Prefix)+len(name) > unix.NAME_MAX {
		return whiteout.Overlay
	}
	return fs.dialect
}

// eraseOCI writes the whiteout beside the file, then removes the file.
func (fs *FS) eraseOCI(v *victim) (trash string, err error) {
	if v.inLower && !v.marker {
		if err := whiteout.OCI.Hide(v.dir.fd, v.name); err != nil {
			return "", err
		}
	}
	if v.isDir() {
		return fs.eraseDir(v)
	}
	return "", at.Unlink(v.dir.fd, v.name)
}

// eraseDir removes a directory of the upper that the view shows empty. It may
// still hold whiteouts.
func (fs *FS) eraseDir(v *victim) (trash string, err error) {
	err = at.Rmdir(v.dir.fd, v.name)
	if !errors.Is(err, unix.ENOTEMPTY) {
		return "", err
	}
	trash = fs.temp()
	return trash, at.Rename(v.dir.fd, v.name, fs.work, trash, 0)
}

// replaceByWhiteout puts a whiteout device in the place of the file.
func (fs *FS) replaceByWhiteout(v *victim) (trash string, err error) {
	temp := fs.temp()
	if err := whiteout.Overlay.Hide(fs.work, temp); err != nil {
		return "", err
	}
	if !v.isDir() {
		err := at.Rename(fs.work, temp, v.dir.fd, v.name, 0)
		if err != nil {
			err = errors.Join(err, at.Unlink(fs.work, temp))
		}
		return "", err
	}
	return temp, at.Rename(fs.work, temp, v.dir.fd, v.name, unix.RENAME_EXCHANGE)
}

// leaveLocked notes that the name is gone.
// Preconditions: fs.ns is held for writing.
func (fs *FS) leaveLocked(v *victim) error {
	if n := v.r.n; n != nil && v.isDir() {
		fs.nodes.gone(n)
		n.dir.removed, n.dir.loaded = true, true
		n.dir.low, n.dir.added = noInum, nil
		clear(n.dir.entries)
		n.dir.origins.Store(0)
	}
	if v.r.low != noInum && !v.inUpper {
		fs.nodes.slot(v.r.low).gone.Store(true)
	}
	fs.unplaceLocked(v)
	old := v.d.entries[v.name]
	if !v.inLower {
		if old != nil {
			v.d.takeOutLocked(old)
		}
		return nil
	}
	return fs.insertLocked(v.d, &upperEntry{name: v.name, hidden: true, marker: true, origin: noInum})
}

// unplaceLocked takes the place away from the record of the file.
// Preconditions: fs.ns is held for writing.
func (fs *FS) unplaceLocked(v *victim) {
	n := v.r.n
	if n == nil || !v.inUpper {
		return
	}
	n.mu.Lock()
	for k, p := range n.places {
		if p == (place{v.parent, v.name}) {
			n.places = append(n.places[:k:k], n.places[k+1:]...)
			break
		}
	}
	last := len(n.places) == 0
	n.mu.Unlock()
	if last && n.low != noInum {
		fs.nodes.slot(n.low).gone.Store(true)
	}
	if n.isDir() {
		fs.fds.drop(fdKey{kind: upperDirFD, id: n.id})
	}
}
