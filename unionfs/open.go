package unionfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// In the modes Cached and Writeback, Open and Create are answered ENOSYS, so that
// the kernel stops asking: open, close and warm reads never leave it, and a file is
// created by MKNOD. Requests carry a node and no handle from then on. Answering
// CREATE in these modes would leak: no RELEASE ever comes.
//
// In the others the kernel tells of each open, truncation at open included, and of
// each last close. A file is still found by its node, and its descriptor in the
// LRU: there is nothing to keep for an open file, but in Passthrough (see
// passthrough.go).

// Open opens a file, or says that there is nothing to do at open or close.
func (fs *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if !fs.opt.IO.hearsOpen() {
		return fuse.ENOSYS
	}
	if err := fs.open(in); err != nil {
		return status(err)
	}
	fs.opened(in.NodeId, out)
	return fuse.OK
}

// open does what an open changes. A file opened for writing comes up here only
// where the kernel will write by itself; else with the first write, for many
// programs open for writing what they only read.
func (fs *FS) open(in *fuse.OpenIn) error {
	r, err := fs.get(in.NodeId)
	if err != nil {
		return err
	}
	switch writes := in.Flags&unix.O_ACCMODE != unix.O_RDONLY; {
	case in.Flags&unix.O_TRUNC != 0:
		return fs.openEmpty(r, in)
	case writes && fs.opt.IO == Passthrough:
		_, err = fs.up(r)
	case writes && fs.readOnly():
		err = unix.EROFS
	}
	return err
}

func (fs *FS) openEmpty(r ref, in *fuse.OpenIn) error {
	n, err := fs.upEmpty(r)
	if err != nil {
		return err
	}
	change := fuse.SetAttrIn{}
	if in.Mode&fuse.OPEN_KILL_SUIDGID != 0 {
		change.Valid = fuse.FATTR_KILL_SUIDGID
	}
	return fs.truncate(n, &change)
}

// Create makes a file and opens it, or makes the kernel use Mknod instead.
func (fs *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if !fs.opt.IO.hearsOpen() {
		return fuse.ENOSYS
	}
	f := newFile{name: name, kind: unix.S_IFREG, mode: in.Mode & 0o7777, umask: in.Umask, uid: in.Uid, gid: in.Gid}
	if st := fs.createRegular(in.NodeId, f, &out.EntryOut); !st.Ok() {
		return st
	}
	fs.opened(out.NodeId, &out.OpenOut)
	return fuse.OK
}

// opened answers an open. It can not fail, so that each one has its release.
func (fs *FS) opened(id uint64, out *fuse.OpenOut) {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	if fs.opt.IO == Passthrough {
		fs.openBacked(id, out)
	}
}

// Release is told of the last close of what Open or Create opened.
func (fs *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if fs.opt.IO == Passthrough {
		fs.releaseBacked(in.NodeId)
	}
}

// OpenDir says that there is nothing to do at the open of a directory, and that
// the kernel may cache it.
func (fs *FS) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

// Flush says that a close needs no answer: every write had its own.
func (fs *FS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }
