package unionfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// SetAttr changes owner, mode, size and times in the upper, bringing the file up
// first. The kernel has checked that the caller may (default_permissions).
func (fs *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	r, err := fs.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	bring := fs.upMeta
	switch {
	case in.Valid&fuse.FATTR_SIZE == 0:
	case in.Size == 0:
		bring = fs.upEmpty
	default:
		bring = fs.up
	}
	n, err := bring(r)
	if err != nil {
		return status(err)
	}
	if err := fs.setAttrSteady(n, in); err != nil {
		return status(err)
	}
	return status(fs.fillAttr(ref{n, n.low}, out))
}

// notChanges are the bits of a SETATTR that do not name a change. The kernel sends
// one that names none for a write that it did by itself (io=passthrough) and for
// fallocate, by somebody without CAP_FSETID: it found setuid or setgid, and leaves
// to us to clear them (FUSE_HANDLE_KILLPRIV_V2, fuse_setattr of Linux). And one for a
// chown(2) to nobody new, which clears them, too, but never those of a directory.
const notChanges = fuse.FATTR_FH | fuse.FATTR_LOCKOWNER | fuse.FATTR_CTIME | fuse.FATTR_KILL_SUIDGID

func (fs *FS) setAttrSteady(n *node, in *fuse.SetAttrIn) error {
	defer n.steady()()
	return fs.setAttr(n, in)
}

// setAttr applies the changes in the order that keeps them all: chown clears
// setuid, truncation sets times.
func (fs *FS) setAttr(n *node, in *fuse.SetAttrIn) error {
	if in.Valid&^notChanges == 0 {
		if n.isDir() {
			return nil
		}
		return fs.killPrivFor(n, in.InHeader.Uid)
	}
	if in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		if err := fs.chown(n, in); err != nil {
			return err
		}
	}
	if in.Valid&fuse.FATTR_MODE != 0 {
		if err := fs.chmod(n, in.Mode&0o7777); err != nil {
			return err
		}
	}
	if in.Valid&fuse.FATTR_SIZE != 0 {
		if err := fs.truncate(n, in); err != nil {
			return err
		}
	}
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 {
		atime := timespec(in.Valid, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec)
		mtime := timespec(in.Valid, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec)
		return fs.withUpper(n, func(dir int, name string) error {
			return at.Utimes(dir, name, atime, mtime)
		})
	}
	return nil
}

func (fs *FS) chown(n *node, in *fuse.SetAttrIn) error {
	uid, gid := -1, -1
	if in.Valid&fuse.FATTR_UID != 0 {
		uid = int(in.Uid)
	}
	if in.Valid&fuse.FATTR_GID != 0 {
		gid = int(in.Gid)
	}
	uid, gid, err := fs.newOwner(uid, gid)
	if err != nil {
		return err
	}
	if fs.opt.Override != NoOverride {
		return fs.chownKept(n, uid, gid)
	}
	return fs.withUpper(n, func(dir int, name string) error { return at.Chown(dir, name, uid, gid) })
}

func (fs *FS) chmod(n *node, mode uint32) error {
	if n.isDir() {
		defer n.dir.handsDown()
	}
	if fs.opt.Override != NoOverride {
		return fs.restat(n, func(st *unix.Stat_t) { st.Mode = st.Mode&unix.S_IFMT | mode })
	}
	return fs.withUpper(n, func(dir int, name string) error { return at.Chmod(dir, name, mode) })
}

func (fs *FS) truncate(n *node, in *fuse.SetAttrIn) error {
	file, err := fs.file(ref{n, n.low}, true)
	if err != nil {
		return err
	}
	defer file.release()
	if err := unix.Ftruncate(file.fd, int64(in.Size)); err != nil {
		return err
	}
	if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
		return fs.killPriv(n)
	}
	return nil
}

// timespec is the time to set, for utimensat(2).
func timespec(valid, set, now uint32, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case valid&set == 0:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case valid&now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
}

// killPriv clears setuid, and setgid of what a group may execute, because
// somebody without CAP_FSETID wrote to the file (FUSE_HANDLE_KILLPRIV_V2). File
// capabilities the kernel cleared when we wrote.
func (fs *FS) killPriv(n *node) error {
	var st unix.Stat_t
	err := fs.withUpper(n, func(dir int, name string) error { return fs.opt.Override.statHere(dir, name, &st) })
	if err != nil || withoutPriv(st.Mode) == st.Mode {
		return err
	}
	return fs.chmod(n, withoutPriv(st.Mode)&0o7777)
}

// killPrivFor is killPriv for a SETATTR without a change. The kernel has not checked
// who sends it: it is the same for what somebody may write, and for a chown(2) to
// nobody new, which anybody may try. So only the owner's counts, and root's; for the
// others Fallocate and CopyFileRange do it themselves. Where the kernel writes by itself
// there is no telling.
func (fs *FS) killPrivFor(n *node, uid uint32) error {
	var st unix.Stat_t
	err := fs.withUpper(n, func(dir int, name string) error { return fs.opt.Override.statHere(dir, name, &st) })
	if err != nil {
		return err
	}
	if owner, _ := fs.shownOwner(&st); uid != 0 && uid != owner && fs.opt.IO != Passthrough {
		return nil
	}
	return fs.killPriv(n)
}

// killPrivOf is killPriv after a change of the data, by whom the kernel let.
func (fs *FS) killPrivOf(n *node, uid uint32) error {
	if uid == 0 { // has CAP_FSETID, or sent a SETATTR before
		return nil
	}
	return fs.killPriv(n)
}

// withUpper is atUpper for callers that hold no lock. A regular file that is open is
// itself what fn gets, with "".
func (fs *FS) withUpper(n *node, fn func(dir int, name string) error) error {
	if done, err := fs.atOpen(n, fn); done {
		return err
	}
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	return fs.atUpper(n, fn)
}
