package unionfs

import (
	"errors"
	"os"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// In Passthrough the kernel reads and writes the backing file of a node by itself.
// It has three rules, and breaking one is EIO for the program:
//
//  1. A node has one backing file at a time, by its registration.
//  2. While it has one, each open of it must be backed.
//  3. While an open of it is not backed, none may be.
//
// And one trap: it opens the backing file by its path, anew for each open, with
// the flags of whoever opens. A file of a layer that was registered read-only has
// been written through. So in a view that can be written, a file of a layer never
// backs anything: it is read through the page cache, and while one such open
// lives, the file stays there even after it was brought up. All descriptors of a
// file so see the same data, which those of overlayfs do not. In a read-only view
// the layers do back: there every open is for reading (FS.open sees to it), and
// nothing comes up. A file of which the upper has only the metadata is one of a layer
// in this, too.

// backings counts the opens of each node and knows what backs it. All methods of
// FS that use it may be called from several goroutines.
type backings struct {
	mu     sync.Mutex
	byNode map[uint64]*backing
}

// backing is how one node is open. It is the same for all its opens, as long as
// there is one.
type backing struct {
	users int // guarded by backings.mu

	once   sync.Once
	backed bool
	id     int32 // of the registration, if backed
	keep   bool  // if not backed: what the kernel has cached is true
}

// openBacked counts an open of a node and tells the kernel what backs it.
func (fs *FS) openBacked(node uint64, out *fuse.OpenOut) {
	b := fs.backings.use(node)
	b.once.Do(func() { fs.choose(node, b) })
	switch {
	case b.backed:
		out.OpenFlags, out.BackingID = fuse.FOPEN_PASSTHROUGH, b.id
	case !b.keep:
		out.OpenFlags = 0
	}
}

func (t *backings) use(node uint64) *backing {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.byNode[node]
	if b == nil {
		b = &backing{}
		t.byNode[node] = b
	}
	b.users++
	return b
}

// choose decides how a node is open from now on. A file of the upper that can not
// back goes through the page cache, but without what is in it: the file may have
// been written past it.
func (fs *FS) choose(node uint64, b *backing) {
	r, err := fs.get(node)
	if err != nil {
		return
	}
	isUp := r.n != nil && r.n.isWhole()
	b.keep = !isUp
	if !isUp && !fs.readOnly() {
		return
	}
	file, err := fs.file(r, false)
	if err != nil {
		return // reading it will tell
	}
	defer file.release()
	id, errno := fs.server.RegisterBackingFd(&fuse.BackingMap{Fd: int32(file.fd)})
	b.backed, b.id = errno == 0, id
}

// releaseBacked counts the end of an open. The kernel has let go of the backing
// file before it tells, so an open that comes now may choose anew.
func (fs *FS) releaseBacked(node uint64) {
	if b := fs.backings.drop(node); b != nil && b.backed {
		_ = fs.server.UnregisterBackingFd(b.id) // ENOENT at worst
	}
}

// drop returns what nobody uses any more.
func (t *backings) drop(node uint64) *backing {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.byNode[node]
	if b == nil {
		return nil
	}
	if b.users--; b.users > 0 {
		return nil
	}
	delete(t.byNode, node)
	return b
}

// probePassthrough asks the kernel whether it takes a file of the upper for
// backing. The ioctl alone tells: what is said at INIT is the same for all.
func (fs *FS) probePassthrough() error {
	fd, err := fs.probeFile()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // nothing in it
	id, errno := fs.server.RegisterBackingFd(&fuse.BackingMap{Fd: int32(fd)})
	if errno != 0 {
		return errNoPassthrough{errno}
	}
	if errno := fs.server.UnregisterBackingFd(id); errno != 0 {
		return errNoPassthrough{errno}
	}
	return nil
}

// probeFile makes a file without a name on the file system of the upper; in a
// read-only view, in memory.
func (fs *FS) probeFile() (int, error) {
	if fs.readOnly() {
		fd, err := unix.MemfdCreate("varve", unix.MFD_CLOEXEC)
		return fd, os.NewSyscallError("memfd_create", err)
	}
	name := fs.temp()
	fd, err := at.Open(fs.work, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return -1, err
	}
	if err := at.Unlink(fs.work, name); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}
