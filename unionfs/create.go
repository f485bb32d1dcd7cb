package unionfs

import (
	"errors"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// newFile is something to be made in a directory of the view.
type newFile struct {
	name string
	kind uint32 // S_IFMT
	mode uint32 // 07777
	// umask is the caller's, which does not count where acl, a default list of
	// the directory, takes its place.
	umask uint32
	acl   []byte
	rdev  uint64 // of a device
	uid   uint32 // of the caller; create makes it the one on the disk
	gid   uint32
	pid   uint32 // of his thread
	// make makes it, as name in dir: a free name, so that nothing is replaced.
	make func(dir int, name string, mode uint32) error
	// fd, where opened says so, is the file, as make left it open.
	fd     int
	opened bool
	// keep, if not nil, is called with the record once the file is in place.
	keep func(n *node)
	// of is the record of an existing file that gets one more name.
	of *node
}

// Mknod makes a file, FIFO, socket or device. A character device 0/0 is refused:
// in a layer it is a whiteout.
func (fs *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	f := newFile{name: name, kind: in.Mode & unix.S_IFMT, mode: in.Mode & 0o7777, umask: in.Umask, uid: in.Uid, gid: in.Gid, pid: in.Pid}
	if f.kind == 0 {
		f.kind = unix.S_IFREG
	}
	if whiteout.IsDevice(in.Mode, uint64(in.Rdev)) {
		return fuse.EPERM
	}
	if f.kind == unix.S_IFREG {
		return fs.createRegular(in.NodeId, f, out)
	}
	f.rdev = uint64(in.Rdev)
	f.make = func(dir int, name string, mode uint32) error {
		if fs.standsIn(f.kind) {
			return at.Mknod(dir, name, unix.S_IFREG|0o600, 0)
		}
		return at.Mknod(dir, name, f.kind|mode, f.rdev)
	}
	return status(fs.create(in.NodeId, &f, out))
}

// createRegular makes a file by opening it, and keeps it open: what follows a
// creation is nearly always a write.
func (fs *FS) createRegular(parent uint64, f newFile, out *fuse.EntryOut) fuse.Status {
	f.make = func(dir int, name string, mode uint32) (err error) {
		f.fd, err = at.Open(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, mode)
		f.opened = err == nil
		return err
	}
	f.keep = func(n *node) {
		n.noCaps.Store(true)
		fs.fds.put(fdKey{kind: fileFD, id: n.id}, f.fd, true).release()
		f.opened = false
	}
	err := fs.create(parent, &f, out)
	if f.opened {
		_ = unix.Close(f.fd) // nothing was written
	}
	return status(err)
}

// place is where the file is that was made as name in dir.
func (f *newFile) place(dir int, name string) (int, string) {
	if f.opened {
		return f.fd, ""
	}
	return dir, name
}

// Mkdir makes a directory.
func (fs *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	f := newFile{name: name, kind: unix.S_IFDIR, mode: in.Mode & 0o7777, umask: in.Umask, uid: in.Uid, gid: in.Gid, pid: in.Pid}
	f.make = at.Mkdir
	return status(fs.create(in.NodeId, &f, out))
}

// Symlink makes a symbolic link.
func (fs *FS) Symlink(_ <-chan struct{}, header *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	f := newFile{name: name, kind: unix.S_IFLNK, mode: 0o777, uid: header.Uid, gid: header.Gid, pid: header.Pid}
	f.make = func(dir int, name string, _ uint32) error {
		if fs.standsIn(unix.S_IFLNK) {
			return fs.writeLink(dir, name, target)
		}
		return at.Symlink(target, dir, name)
	}
	return status(fs.create(header.NodeId, &f, out))
}

// writeLink writes what stands for a symbolic link. That this begins to go to the disk gives
// ext4 the target before the name; who waited for it would wait milliseconds for each link.
func (fs *FS) writeLink(dir int, name, target string) error {
	fd, err := at.Open(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = at.WriteAll(fd, []byte(target)); err == nil && !fs.opt.Volatile {
		_ = unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE) // not all file systems know it
	}
	return errors.Join(err, os.NewSyscallError("close", unix.Close(fd)))
}

// Link gives a file one more name. A lower file is brought up first.
func (fs *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	r, err := fs.get(in.Oldnodeid)
	if err != nil {
		return status(err)
	}
	n, err := fs.up(r)
	if err != nil {
		return status(err)
	}
	f := newFile{name: name, kind: n.kind, of: n}
	f.make = func(dir int, name string, _ uint32) error {
		return fs.atUpper(n, func(oldDir int, oldName string) error {
			if oldName == "" { // O_TMPFILE; one that was unlinked gives ENOENT
				return at.LinkFD(oldDir, dir, name)
			}
			return at.Link(oldDir, oldName, dir, name)
		})
	}
	return status(fs.create(in.NodeId, &f, out))
}

// create makes f in the directory with node id parent and tells the kernel.
func (fs *FS) create(parent uint64, f *newFile, out *fuse.EntryOut) error {
	if whiteout.Reserved(f.name) {
		return unix.EINVAL // a layer could not hold it
	}
	r, err := fs.get(parent)
	if err != nil {
		return err
	}
	dir, err := fs.up(r)
	if err != nil {
		return err
	}
	if fs.opt.Creator != nil {
		f.uid, f.gid = fs.opt.Creator(f.pid)
	}
	f.uid, f.gid = fs.creator(f.uid, f.gid)
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	var st unix.Stat_t
	n, err := fs.createIn(dir, f, &st)
	if err != nil {
		return err
	}
	fs.entryOut(ref{n, n.low}, &st, out)
	if !fs.remember(ref{n, n.low}) {
		return unix.ESTALE // forgotten in the moment it was made: cannot be, nobody knew of it
	}
	return nil
}

// createIn makes f in the directory parent, which is in the upper, and fills st.
// Preconditions: fs.ns is held for reading.
func (fs *FS) createIn(parent *node, f *newFile, st *unix.Stat_t) (*node, error) {
	d, err := fs.loadDir(parent)
	if err != nil {
		return nil, err
	}
	dir, err := fs.upperFD(parent)
	if err != nil {
		return nil, err
	}
	defer dir.release()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return nil, unix.ENOENT
	}
	old := d.entries[f.name]
	if old != nil && !old.hidden {
		return nil, unix.EEXIST
	}
	if old == nil {
		if _, inLower, err := fs.lowerChild(d, f.name); err != nil || inLower {
			return nil, errors.Join(err, errIf(inLower, unix.EEXIST))
		}
	}
	if err := fs.inheritLocked(parent, dir.fd, f); err != nil {
		return nil, err
	}
	if old == nil && (f.of != nil || !fs.standsIn(f.kind)) {
		err = fs.makeWhole(dir.fd, f.name, f)
	} else {
		err = fs.makeOver(dir.fd, f)
	}
	if err != nil {
		return nil, err
	}
	return fs.enter(parent, dir.fd, f, st)
}

func errIf(cond bool, err error) error {
	if cond {
		return err
	}
	return nil
}

// makeWhole makes f as name in dir with the owner and the mode that it is to
// have. On an error nothing is left of it.
func (fs *FS) makeWhole(dir int, name string, f *newFile) error {
	if err := f.make(dir, name, f.mode); err != nil || f.of != nil {
		return err
	}
	made, madeName := f.place(dir, name)
	err := fs.own(made, madeName, f)
	if err != nil {
		err = errors.Join(err, at.RemoveAll(dir, name))
	}
	return err
}

func (fs *FS) own(dir int, name string, f *newFile) error {
	if fs.opt.Override != NoOverride {
		st := unix.Stat_t{Mode: f.kind | f.mode, Uid: f.uid, Gid: f.gid, Rdev: f.rdev}
		return fs.opt.Override.write(dir, name, &st)
	}
	if f.uid != fs.euid || f.gid != fs.egid {
		if err := at.Chown(dir, name, int(f.uid), int(f.gid)); err != nil && !chownRefused(err) {
			return err
		}
	}
	if f.acl != nil {
		return ownWithACL(dir, name, f)
	}
	special := f.mode&(unix.S_ISUID|unix.S_ISGID) != 0 // chown and mkdir clear those
	if f.kind != unix.S_IFLNK && (special || f.mode&fs.umask != 0) {
		return at.Chmod(dir, name, f.mode)
	}
	return nil
}

// makeOver makes f in the place of a whiteout, or what stands for f, so that it never
// is what it really is: beside first, then in one step.
// A directory is opaque, for nothing of the lower one may show through it.
func (fs *FS) makeOver(dir int, f *newFile) (err error) {
	from, leave, err := fs.shelter(f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	temp := fs.temp()
	if err := fs.makeWhole(from, temp, f); err != nil {
		return err
	}
	if err = fs.putOver(from, temp, dir, f); err != nil {
		err = errors.Join(err, at.RemoveAll(from, temp))
	}
	return err
}

func (fs *FS) putOver(from int, temp string, dir int, f *newFile) error {
	if f.kind != unix.S_IFDIR {
		if err := at.Rename(from, temp, dir, f.name, 0); err != nil {
			return err
		}
	} else {
		if err := fs.setOpaque(from, temp); err != nil {
			return err
		}
		if err := fs.moveDirOver(from, temp, dir, f.name); err != nil {
			return err
		}
	}
	fs.unhide(dir, f.name)
	return nil
}

// unhide tidies away the OCI whiteout of a name that the upper now has itself.
// One that can not be removed says nothing untrue: it speaks of the layers below.
func (fs *FS) unhide(dir int, name string) { _ = fs.dialect.Unhide(dir, name) }

// setOpaque makes the directory name in dir opaque. Its times stay, though the
// OCI dialect makes a file in it: nothing changed in the view.
func (fs *FS) setOpaque(dir int, name string) error {
	fd, err := at.OpenDir(dir, name)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	return keepTimes(fd, func() error { return fs.dialect.SetOpaque(fd) })
}

// keepTimes does something in the directory dir that the view does not show.
func keepTimes(dir int, change func() error) error {
	var st unix.Stat_t
	if err := at.Stat(dir, "", &st); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	return at.Utimes(dir, "", st.Atim, st.Mtim)
}

// moveDirOver moves a directory to a name that is free or is a whiteout device,
// which a plain rename would refuse: they change places, and the whiteout goes.
func (fs *FS) moveDirOver(fromDir int, from string, toDir int, to string) error {
	err := at.Rename(fromDir, from, toDir, to, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) { // free
		return at.Rename(fromDir, from, toDir, to, 0)
	}
	if err != nil {
		return err
	}
	return at.Unlink(fromDir, from)
}

// enter notes the new file in its directory, parent, which is open as dir.
// Preconditions: parent.dir.mu is held.
func (fs *FS) enter(parent *node, dir int, f *newFile, st *unix.Stat_t) (*node, error) {
	made, name := f.place(dir, f.name)
	if err := fs.opt.Override.statHere(made, name, st); err != nil {
		return nil, err
	}
	p, n := place{parent, f.name}, f.of
	if n == nil {
		n = fs.nodes.add(f.kind, fs.tree.unique(st.Dev, st.Ino), st.Ino, p)
	} else {
		n.addPlace(p)
		fs.nodes.shared(n, st.Ino)
	}
	if n.isDir() {
		n.dir.loaded, n.dir.low = true, noInum
		n.dir.entries = make(map[string]*upperEntry)
	}
	if f.keep != nil {
		f.keep(n)
	}
	st.Ino = fs.inoOf(n, st)
	e := &upperEntry{name: f.name, kind: f.kind, ino: st.Ino, origin: n.low, node: n}
	return n, fs.insertLocked(parent.dir, e)
}
