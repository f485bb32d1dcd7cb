package unionfs

import (
	"cmp"
	"errors"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// validity is how long the kernel may keep what it was told, also that a name is
// absent: we are the only one who changes the view, and each change goes through
// the kernel.
const validity = time.Hour

// validity is how long the options say.
func (o *Options) validity() time.Duration { return max(cmp.Or(o.Validity, validity), 0) }

// Lookup finds a name in a directory. An absent one is answered with node 0 and
// a validity, which the kernel keeps; a plain ENOENT it would ask again.
func (fs *FS) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	parent, err := fs.get(header.NodeId)
	if err != nil {
		return status(err)
	}
	found, err := fs.lookup(parent, name, out)
	if err == nil && !found {
		out.SetEntryTimeout(fs.opt.validity())
	}
	return status(err)
}

// lookup finds name and, if it is there, tells the kernel of it.
func (fs *FS) lookup(parent ref, name string, out *fuse.EntryOut) (bool, error) {
	if whiteout.Reserved(name) {
		return false, nil
	}
	for {
		r, found, err := fs.child(parent, name)
		if err != nil || !found {
			return false, err
		}
		if err := fs.fillEntry(r, out); err != nil {
			return false, err
		}
		if fs.remember(r) {
			return true, nil
		}
	}
}

// child finds name in parent, whatever it is.
func (fs *FS) child(parent ref, name string) (ref, bool, error) {
	if parent.n == nil {
		low, ok, err := fs.tree.lookup(parent.low, name)
		if err != nil || !ok {
			return ref{}, false, err
		}
		return fs.lowerRef(low)
	}
	if !parent.n.isDir() {
		return ref{}, false, unix.ENOTDIR
	}
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	return fs.childLocked(parent.n, name)
}

// lowerRef is the ref of a lower file, whichever of its names low is.
func (fs *FS) lowerRef(low Inum) (ref, bool, error) {
	low, err := fs.tree.canon(low)
	if err != nil {
		return ref{}, false, err
	}
	return ref{fs.nodes.slot(low).node.Load(), low}, true, nil
}

func (fs *FS) fillEntry(r ref, out *fuse.EntryOut) error {
	var st unix.Stat_t
	if err := fs.stat(r, &st); err != nil {
		return err
	}
	fs.entryOut(r, &st, out)
	return nil
}

func (fs *FS) entryOut(r ref, st *unix.Stat_t, out *fuse.EntryOut) {
	out.NodeId = r.id()
	out.Generation = 1 // node ids are never used again
	out.SetEntryTimeout(fs.opt.validity())
	out.SetAttrTimeout(fs.attrValidity(st))
	fs.attrOut(st, &out.Attr)
}

// stat fills st with the attributes of r as the view shows them.
func (fs *FS) stat(r ref, st *unix.Stat_t) error {
	if r.n == nil || !r.n.upper.Load() {
		return fs.statLower(r, st)
	}
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	return fs.statUpper(r.n, st)
}

// statUpper is stat for a file that is in the upper.
// Preconditions: fs.ns is held for reading.
func (fs *FS) statUpper(n *node, st *unix.Stat_t) error {
	look := func(dir int, name string) error { return fs.opt.Override.statHere(dir, name, st) }
	open, err := fs.atOpen(n, look)
	if !open {
		err = fs.atUpper(n, look)
	}
	if err != nil {
		return err
	}
	if err := fs.blocks(n.meta.Load(), st); err != nil {
		return err
	}
	st.Ino = fs.inoOf(n, st)
	if n.low != noInum && n.isDir() {
		st.Nlink = 1 // merged: nobody has counted its subdirectories
	}
	return nil
}

// inoOf is the inode number to show: that of the lower file if n was copied up,
// so that it did not change then.
func (fs *FS) inoOf(n *node, st *unix.Stat_t) uint64 {
	if n.ino != 0 {
		return n.ino
	}
	return fs.tree.unique(st.Dev, st.Ino)
}

func (fs *FS) statLower(r ref, st *unix.Stat_t) error {
	if err := fs.tree.stat(r.low, st); err != nil {
		return err
	}
	if fs.nodes.slot(r.low).gone.Load() {
		st.Nlink--
		if r.n != nil && r.n.isDir() {
			st.Nlink = 0
		}
	}
	return nil
}

// attrOut writes attributes in the form of FUSE, with owners that have no id here
// as the options say.
func (fs *FS) attrOut(st *unix.Stat_t, out *fuse.Attr) {
	out.Ino = st.Ino
	out.Size = uint64(st.Size)
	out.Blocks = uint64(st.Blocks)
	out.Atime, out.Atimensec = uint64(st.Atim.Sec), uint32(st.Atim.Nsec)
	out.Mtime, out.Mtimensec = uint64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
	out.Ctime, out.Ctimensec = uint64(st.Ctim.Sec), uint32(st.Ctim.Nsec)
	out.Mode = st.Mode
	out.Nlink = uint32(st.Nlink)
	out.Rdev = uint32(st.Rdev)
	out.Blksize = uint32(st.Blksize)
	out.Uid, out.Gid = fs.shownOwner(st)
}

// Forget takes back what Lookup and its like told the kernel.
func (fs *FS) Forget(nodeid, nlookup uint64) { fs.forget(nodeid, nlookup) }

// GetAttr returns the attributes of a file, open or not.
func (fs *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	var st unix.Stat_t
	r, err := fs.get(in.NodeId)
	if err == nil {
		err = fs.stat(r, &st)
	}
	if err != nil {
		return status(err)
	}
	fs.tell(in.Pid, &st)
	fs.attrAnswer(&st, out)
	return fuse.OK
}

func (fs *FS) fillAttr(r ref, out *fuse.AttrOut) error {
	var st unix.Stat_t
	if err := fs.stat(r, &st); err != nil {
		return err
	}
	fs.attrAnswer(&st, out)
	return nil
}

func (fs *FS) attrAnswer(st *unix.Stat_t, out *fuse.AttrOut) {
	out.SetTimeout(fs.attrValidity(st))
	fs.attrOut(st, &out.Attr)
}

// Statx is GetAttr with the time of birth, which the kernel asks for only when a
// program does. A file that was brought up was born then.
func (fs *FS) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	var st unix.Stat_t
	var stx unix.Statx_t
	r, err := fs.get(in.NodeId)
	if err == nil {
		err = fs.stat(r, &st)
	}
	if err == nil {
		err = fs.withFile(in.NodeId, func(dir int, name string) error {
			return at.Statx(dir, name, unix.STATX_BTIME, &stx)
		})
		if errors.Is(err, unix.ENODATA) { // a directory that was cut out: nothing was born
			err = nil
		}
	}
	if err != nil {
		return status(err)
	}
	fs.tell(in.Pid, &st)
	var attr fuse.Attr
	fs.attrOut(&st, &attr)
	out.SetTimeout(fs.attrValidity(&st))
	statxOut(&attr, &stx, &out.Statx)
	return fuse.OK
}

func statxOut(a *fuse.Attr, stx *unix.Statx_t, out *fuse.Statx) {
	out.Mask = unix.STATX_BASIC_STATS | stx.Mask&unix.STATX_BTIME
	out.Mode, out.Nlink, out.Uid, out.Gid = uint16(a.Mode), a.Nlink, a.Uid, a.Gid
	out.Ino, out.Size, out.Blocks, out.Blksize = a.Ino, a.Size, a.Blocks, a.Blksize
	out.Atime = fuse.SxTime{Sec: a.Atime, Nsec: a.Atimensec}
	out.Mtime = fuse.SxTime{Sec: a.Mtime, Nsec: a.Mtimensec}
	out.Ctime = fuse.SxTime{Sec: a.Ctime, Nsec: a.Ctimensec}
	out.Btime = fuse.SxTime{Sec: uint64(stx.Btime.Sec), Nsec: stx.Btime.Nsec}
	out.RdevMajor, out.RdevMinor = unix.Major(uint64(a.Rdev)), unix.Minor(uint64(a.Rdev))
}

// Readlink returns the target of a symbolic link.
func (fs *FS) Readlink(_ <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	r, err := fs.get(header.NodeId)
	if err != nil {
		return nil, status(err)
	}
	target, err := fs.readlink(r)
	return []byte(target), status(err)
}

func (fs *FS) readlink(r ref) (target string, err error) {
	if r.n == nil || !r.n.upper.Load() {
		return fs.tree.readlink(r.low)
	}
	if r.n.kind != unix.S_IFLNK {
		return "", unix.EINVAL
	}
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	err = fs.atUpper(r.n, func(dir int, name string) (err error) {
		target, err = fs.opt.Override.readlink(dir, name)
		return err
	})
	return target, err
}

// StatFs tells of the space where new data goes: the upper's file system, or the
// top layer's in a read-only view.
func (fs *FS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	fd := fs.upper
	if fd < 0 {
		fd = fs.tree.rootFD()
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return status(err)
	}
	out.Blocks, out.Bfree, out.Bavail = st.Blocks, st.Bfree, st.Bavail
	out.Files, out.Ffree = st.Files, st.Ffree
	out.Bsize, out.Frsize, out.NameLen = uint32(st.Bsize), uint32(st.Frsize), uint32(st.Namelen)
	return fuse.OK
}
