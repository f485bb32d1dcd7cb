package unionfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// Tmpfile makes a regular file without a name (O_TMPFILE), which Link may give one
// later. It is open as after Create; the file lives in its node until that is
// forgotten.
func (fs *FS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	r, err := fs.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	dir, err := fs.up(r)
	if err != nil {
		return status(err)
	}
	if err := fs.tempfileIn(dir, in, &out.EntryOut); err != nil {
		return status(err)
	}
	fs.opened(out.NodeId, &out.OpenOut)
	return fuse.OK
}

func (fs *FS) tempfileIn(parent *node, in *fuse.CreateIn, out *fuse.EntryOut) error {
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	dir, err := fs.upperFD(parent)
	if err != nil {
		return err
	}
	defer dir.release()
	f := newFile{kind: unix.S_IFREG, mode: in.Mode & 0o7777, umask: in.Umask}
	f.uid, f.gid = fs.creator(in.Uid, in.Gid)
	parent.dir.mu.Lock()
	err = fs.inheritLocked(parent, dir.fd, &f)
	parent.dir.mu.Unlock()
	if err != nil {
		return err
	}
	fd, err := at.Tempfile(dir.fd, f.mode)
	if err != nil {
		return err
	}
	n, err := fs.enterNameless(fd, &f, out)
	if err != nil {
		_ = unix.Close(fd) // nothing was written
		return err
	}
	fs.fds.put(fdKey{kind: fileFD, id: n.id}, fd, true).release()
	return nil
}

// enterNameless makes the record of the nameless file behind fd.
func (fs *FS) enterNameless(fd int, f *newFile, out *fuse.EntryOut) (*node, error) {
	if err := fs.own(fd, "", f); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := fs.opt.Override.statHere(fd, "", &st); err != nil {
		return nil, err
	}
	pinned, err := at.Reopen(fd, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	st.Ino = fs.tree.unique(st.Dev, st.Ino)
	n := fs.nodes.addNameless(f.kind, st.Ino, pinned)
	fs.entryOut(ref{n, noInum}, &st, out)
	fs.remember(ref{n, noInum}) // it was made here, nobody dropped it
	return n, nil
}

// addNameless makes the record of a file of the upper that has no name; the
// descriptor is the record's from now on.
func (t *nodeTable) addNameless(kind uint32, ino uint64, pinned int) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := &node{id: t.nextID, low: noInum, kind: kind, ino: ino, pinned: pinned}
	n.upper.Store(true)
	n.noCaps.Store(true)
	t.nextID++
	t.byID[n.id] = n
	return n
}
