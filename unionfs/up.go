package unionfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/copyup"
	"github.com/varvefs/varve/internal/at"
)

// up brings r into the upper, parents first, and returns its record. No lock may
// be held. Different files come up side by side; who needs the same one waits.
func (fs *FS) up(r ref) (*node, error) { return fs.bringUp(r, false) }

// upEmpty is up for a regular file whose data nobody needs any more.
func (fs *FS) upEmpty(r ref) (*node, error) { return fs.bringUp(r, true) }

func (fs *FS) bringUp(r ref, empty bool) (*node, error) {
	if fs.readOnly() {
		return nil, unix.EROFS
	}
	n := fs.touch(r)
	if n.upper.Load() {
		return n, nil
	}
	if fs.tree.inode(n.low).cut {
		return nil, fmt.Errorf("%q was cut out of the layer: %w", fs.tree.path(n.low), unix.EROFS)
	}
	// A lower file's parent is a lower directory: those are never moved.
	parentLow := fs.tree.inode(n.low).parent
	parent, err := fs.up(ref{fs.nodes.slot(parentLow).node.Load(), parentLow})
	if err != nil {
		return nil, err
	}
	n.copying.Lock()
	defer n.copying.Unlock()
	if n.upper.Load() {
		return n, nil
	}
	staged, err := fs.stage(n, empty)
	if err != nil {
		return nil, err
	}
	return n, fs.settle(n, parent, staged)
}

// stage makes the copy of a lower file in the work directory.
func (fs *FS) stage(n *node, empty bool) (staged *copyup.Staged, err error) {
	st, err := fs.tree.Stat(n.low)
	if err != nil {
		return nil, err
	}
	job := copyup.Job{Stat: *st, Work: fs.work, Temp: fs.temp(), Empty: empty, Volatile: fs.opt.Volatile}
	job.Stat.Uid, job.Stat.Gid = fs.shownOwner(st)
	err = fs.tree.at(n.low, func(dir int, name string) error {
		job.Lower, job.LowerName = dir, name
		staged, err = copyup.Stage(job)
		if err != nil && chownRefused(err) {
			job.KeepOwner = true // we are not root, and the layer is somebody else's
			staged, err = copyup.Stage(job)
		}
		return err
	})
	return staged, err
}

// chownRefused tells whether err is a chown that this process may not do.
func chownRefused(err error) bool {
	return opOf(err) == "chown" && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL))
}

// settle puts the copy in its place, unless the name was removed meanwhile: then
// the file lives on without one, for those who have it open.
func (fs *FS) settle(n, parent *node, staged *copyup.Staged) error {
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	if fs.nodes.slot(n.low).gone.Load() {
		fd, err := staged.Nameless()
		if err != nil {
			return err
		}
		n.mu.Lock()
		n.pinned = fd
		n.mu.Unlock()
	} else if err := fs.settleNamed(n, parent, staged); err != nil {
		return err
	}
	n.upper.Store(true)
	fs.fds.drop(fdKey{kind: lowerFileFD, id: uint64(n.low)}) // nobody asks for it again
	return nil
}

func (fs *FS) settleNamed(n, parent *node, staged *copyup.Staged) error {
	name := fs.tree.inode(n.low).name
	d, err := fs.loadDir(parent)
	if err != nil {
		staged.Discard()
		return err
	}
	dir, err := fs.upperFD(parent)
	if err != nil {
		staged.Discard()
		return err
	}
	defer dir.release()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := keepTimes(dir.fd, func() error { return staged.Publish(dir.fd, name) }); err != nil {
		staged.Discard()
		return err
	}
	if n.isDir() {
		n.dir.mu.Lock()
		n.dir.loaded = false // the upper has its say from now on
		n.dir.mu.Unlock()
	}
	n.addPlace(place{parent, name})
	return fs.insertLocked(d, &upperEntry{name: name, kind: n.kind, origin: n.low, ino: n.ino, node: n})
}

// fileUp opens a regular file for writing, bringing it up first. The caller
// releases it.
func (fs *FS) fileUp(id uint64) (*node, *openFD, error) {
	r, err := fs.get(id)
	if err != nil {
		return nil, nil, err
	}
	n, err := fs.up(r)
	if err != nil {
		return nil, nil, err
	}
	o, err := fs.file(ref{n, n.low}, true)
	return n, o, err
}

// file opens a regular file where it is now. To write, it must be in the upper.
// The caller releases it.
//
// The two places have keys of their own in the cache: whoever asks after a file
// was brought up can not get a descriptor of what it was before, which would fill
// the page cache with old data for good.
func (fs *FS) file(r ref, writable bool) (*openFD, error) {
	if r.n == nil || !r.n.upper.Load() {
		return fs.lowerFile(r.low)
	}
	key := fdKey{kind: fileFD, id: r.n.id}
	if o := fs.fds.get(key, writable); o != nil {
		return o, nil
	}
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	fd, err := fs.openUpperFile(r.n, writable)
	if err != nil {
		return nil, err
	}
	return fs.fds.put(key, fd, writable), nil
}

func (fs *FS) lowerFile(low Inum) (*openFD, error) {
	key := fdKey{kind: lowerFileFD, id: uint64(low)}
	if o := fs.fds.get(key, false); o != nil {
		return o, nil
	}
	fd, err := fs.tree.open(low)
	if err != nil {
		return nil, err
	}
	return fs.fds.put(key, fd, false), nil
}

// openUpperFile opens a regular file of the upper.
// Preconditions: fs.ns is held for reading.
func (fs *FS) openUpperFile(n *node, writable bool) (fd int, err error) {
	flags := unix.O_RDONLY
	if writable {
		flags = unix.O_RDWR
	}
	err = fs.atUpper(n, func(dir int, name string) (err error) {
		fd, err = openFile(dir, name, flags)
		if errors.Is(err, unix.EACCES) {
			// The kernel has checked the permissions of the caller. That the mode keeps
			// its owner out, and so us, must not keep out who has it open already.
			fd, err = openForced(dir, name, flags)
		}
		return err
	})
	return fd, err
}

func openFile(dir int, name string, flags int) (int, error) {
	if name == "" {
		return at.Reopen(dir, flags)
	}
	return at.Open(dir, name, flags, 0)
}

// openForced opens a file of ours whose mode does not let us.
func openForced(dir int, name string, flags int) (int, error) {
	var st unix.Stat_t
	if err := at.Stat(dir, name, &st); err != nil {
		return -1, err
	}
	if err := at.Chmod(dir, name, st.Mode&0o7777|0o600); err != nil {
		return -1, err
	}
	fd, err := openFile(dir, name, flags)
	if cerr := at.Chmod(dir, name, st.Mode&0o7777); err == nil && cerr != nil {
		_ = unix.Close(fd) // nothing written
		return -1, cerr
	}
	return fd, err
}
