package unionfs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// Rename moves a name. What it names is brought up first: a directory alone,
// without what is in it, and marked with where the layers have it (redirect.go).
// RENAME_NOREPLACE and RENAME_EXCHANGE are honoured.
func (fs *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if in.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 || whiteout.Reserved(newName) {
		return fuse.EINVAL
	}
	trash, err := fs.rename(in, oldName, newName)
	if trash != "" {
		_ = at.RemoveAll(fs.work, trash) // what stays is swept at the next mount
	}
	return status(err)
}

func (fs *FS) rename(in *fuse.RenameIn, oldName, newName string) (trash string, err error) {
	oldDir, err := fs.raise(in.NodeId, oldName)
	if err != nil {
		return "", err
	}
	newDir, err := fs.raise(in.Newdir, "")
	if err != nil {
		return "", err
	}
	if in.Flags&unix.RENAME_EXCHANGE != 0 {
		_, err = fs.raise(in.Newdir, newName)
	} else {
		err = fs.upIfLinked(newDir, newName) // it loses a name
	}
	if err != nil {
		return "", err
	}
	fs.ns.Lock()
	defer fs.ns.Unlock()
	from, err := fs.victimLocked(oldDir, oldName)
	if err != nil {
		return "", err
	}
	defer from.dir.release()
	to, err := fs.victimLocked(newDir, newName)
	if err != nil {
		return "", err
	}
	defer to.dir.release()
	if in.Flags&unix.RENAME_EXCHANGE != 0 {
		return "", fs.exchange(from, to)
	}
	if err := fs.mayRename(from, to, in.Flags); err != nil {
		return "", err
	}
	if to.found && to.r.n != nil && to.r.n == from.r.n {
		return "", nil // two names of one file: rename(2) does nothing
	}
	return fs.move(from, to)
}

// raise brings up a directory and, in it, name, if it is not "".
func (fs *FS) raise(id uint64, name string) (*node, error) {
	r, err := fs.get(id)
	if err != nil {
		return nil, err
	}
	dir, err := fs.up(r)
	if err != nil || name == "" {
		return dir, err
	}
	child, found, err := fs.child(ref{dir, dir.low}, name)
	if err != nil || !found {
		return dir, err // not found: told under the lock
	}
	if fs.opt.NoRedirect && child.low != noInum && fs.tree.kind(child.low) == unix.S_IFDIR {
		return dir, unix.EXDEV
	}
	_, err = fs.up(child)
	return dir, err
}

// mayRename checks what rename(2) promises.
// Preconditions: fs.ns is held for writing.
func (fs *FS) mayRename(from, to *victim, flags uint32) error {
	switch {
	case !from.found:
		return unix.ENOENT
	case to.d.removed:
		return unix.ENOENT
	case to.found && flags&unix.RENAME_NOREPLACE != 0:
		return unix.EEXIST
	case !from.inUpper:
		return unix.ESTALE // it was brought up, and replaced since
	case !to.found:
		return nil
	}
	return fs.mayRemove(to, from.isDir())
}

// move does a rename that replaces at most what may be replaced.
// Preconditions: fs.ns is held for writing.
func (fs *FS) move(from, to *victim) (trash string, err error) {
	if to.found {
		if err := fs.pin(to); err != nil {
			return "", err
		}
	}
	if err := fs.seal(from, to); err != nil {
		return "", err
	}
	if from.inLower && fs.dialectFor(from.name) == whiteout.OCI && !from.marker {
		// Before the file leaves: it hides what is below already, so this changes nothing.
		if err := whiteout.OCI.Hide(from.dir.fd, from.name); err != nil {
			return "", err
		}
	}
	if trash, err = fs.moveUpper(from, to); err != nil {
		return trash, err
	}
	fs.unhide(to.dir.fd, to.name)
	return trash, fs.noteMove(from, to)
}

// seal sees to it that a directory will have under its new name what it has
// under the old: what the layers have for it, and nothing of what they have for
// the new name.
func (fs *FS) seal(from, to *victim) error {
	switch {
	case !from.isDir():
		return nil
	case from.r.low != noInum:
		return fs.redirect(from)
	case to.inLower || to.marker:
		return fs.setOpaque(from.dir.fd, from.name)
	}
	return nil
}

// moveUpper renames in the upper. In the overlay dialect a whiteout stays behind
// where a layer has the old name.
func (fs *FS) moveUpper(from, to *victim) (trash string, err error) {
	whiteoutStays := from.inLower && fs.dialectFor(from.name) == whiteout.Overlay
	if from.isDir() && (to.inUpper || to.marker) {
		return fs.moveDirOnto(from, to, whiteoutStays)
	}
	return "", fs.moveFree(from, to, whiteoutStays)
}

// moveFree renames to a name that is free, or that a file may have.
func (fs *FS) moveFree(from, to *victim, whiteoutStays bool) error {
	if !whiteoutStays {
		return at.Rename(from.dir.fd, from.name, to.dir.fd, to.name, 0)
	}
	err := at.Rename(from.dir.fd, from.name, to.dir.fd, to.name, unix.RENAME_WHITEOUT)
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	// The file system can not do both in one step. If we die in between, the old
	// name shows the lower file once more; nothing is lost.
	if err := at.Rename(from.dir.fd, from.name, to.dir.fd, to.name, 0); err != nil {
		return err
	}
	return whiteout.Overlay.Hide(from.dir.fd, from.name)
}

// moveDirOnto renames a directory onto a whiteout or an empty directory, which
// may still hold whiteouts: the two change places, and what is at the old name
// then is removed, or replaced by a whiteout.
func (fs *FS) moveDirOnto(from, to *victim, whiteoutStays bool) (trash string, err error) {
	err = at.Rename(from.dir.fd, from.name, to.dir.fd, to.name, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) { // the whiteout was an OCI one: the name itself is free
		return "", fs.moveFree(from, to, whiteoutStays)
	}
	if err != nil {
		return "", err
	}
	left := *from // what is at the old name now
	left.kind = to.kind
	if !to.inUpper { // a whiteout
		if whiteoutStays {
			return "", nil
		}
		return "", at.Unlink(from.dir.fd, from.name)
	}
	if whiteoutStays {
		return fs.replaceByWhiteout(&left)
	}
	return fs.eraseDir(&left)
}

// noteMove makes the directories in memory say what the upper says now.
// Preconditions: fs.ns is held for writing.
func (fs *FS) noteMove(from, to *victim) error {
	seq := to.d.seqOf(to.name)
	if to.found {
		if err := fs.leaveLocked(to); err != nil {
			return err
		}
	}
	n, old := from.r.n, from.d.entries[from.name]
	moved := &upperEntry{name: to.name, kind: old.kind, origin: old.origin, ino: old.ino, node: n, seq: seq}
	n.addPlace(place{to.parent, to.name}) // before the old one goes: it is never without
	fs.unplaceLocked(from)
	if from.inLower {
		if err := fs.insertLocked(from.d, &upperEntry{name: from.name, hidden: true, marker: true, origin: noInum}); err != nil {
			return err
		}
	} else {
		from.d.takeOutLocked(old)
	}
	return fs.insertLocked(to.d, moved)
}

// exchange swaps two names of the upper.
// Preconditions: fs.ns is held for writing.
func (fs *FS) exchange(a, b *victim) error {
	for _, v := range []*victim{a, b} {
		switch {
		case !v.found:
			return unix.ENOENT
		case !v.inUpper:
			return unix.ESTALE
		}
	}
	if err := errors.Join(fs.seal(a, b), fs.seal(b, a)); err != nil {
		return err
	}
	if err := at.Rename(a.dir.fd, a.name, b.dir.fd, b.name, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	ea, eb := a.d.entries[a.name], b.d.entries[b.name]
	toB := &upperEntry{name: b.name, kind: ea.kind, origin: ea.origin, ino: ea.ino, node: a.r.n, marker: eb.marker, seq: eb.seq}
	toA := &upperEntry{name: a.name, kind: eb.kind, origin: eb.origin, ino: eb.ino, node: b.r.n, marker: ea.marker, seq: ea.seq}
	a.r.n.addPlace(place{b.parent, b.name})
	b.r.n.addPlace(place{a.parent, a.name})
	fs.unplaceLocked(a)
	fs.unplaceLocked(b)
	if err := fs.insertLocked(a.d, toA); err != nil {
		return err
	}
	return fs.insertLocked(b.d, toB)
}
