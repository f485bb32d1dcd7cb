package unionfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/copyup"
	"github.com/varvefs/varve/internal/at"
)

// up brings r into the upper, parents first and with all its data, and returns its
// record. No lock may be held. Different files come up side by side; who needs the same one waits.
func (fs *FS) up(r ref) (*node, error) { return fs.bringUp(r, allData) }

// upEmpty is up for a regular file whose data nobody needs any more.
func (fs *FS) upEmpty(r ref) (*node, error) { return fs.bringUp(r, noData) }

// upMeta is up for a change of a file's metadata: its data may stay where it is (see
// metacopy.go).
func (fs *FS) upMeta(r ref) (*node, error) { return fs.bringUp(r, anyData) }

// need is what of a regular file's data has to be in the upper.
type need uint8

const (
	allData need = iota
	anyData      // it may be below
	noData       // the file is to be empty
)

func (fs *FS) bringUp(r ref, data need) (*node, error) {
	if fs.readOnly() {
		return nil, unix.EROFS
	}
	n := fs.touch(r)
	if n.upper.Load() {
		return n, fs.complete(n, data)
	}
	if fs.tree.isCut(n.low) {
		return nil, fmt.Errorf("%q was cut out of the layer: %w", fs.tree.path(n.low), unix.EROFS)
	}
	names, err := fs.placesFor(n)
	if err != nil {
		return nil, err
	}
	n.copying.Lock()
	defer n.copying.Unlock()
	if n.upper.Load() {
		return n, fs.completeLocked(n, data)
	}
	staged, err := fs.stage(n, data)
	if err != nil {
		return nil, err
	}
	defer staged.Close()
	if err := fs.checkStaged(n, staged); err != nil {
		staged.Discard()
		return nil, err
	}
	if err := fs.settle(n, names, staged); err != nil {
		return n, err
	}
	fs.copyUps.add(staged)
	return n, nil
}

// checkStaged is ESTALE if what was copied by name may be of another file: attributes,
// links, and what the override says.
func (fs *FS) checkStaged(n *node, staged *copyup.Staged) error {
	if staged.Checked() && fs.opt.Override == NoOverride {
		return nil
	}
	return fs.tree.unchanged(n.low)
}

// placesFor brings up the directories that a lower file has names in, and returns
// its places. A name that was looked up is in the directory of its lower parent,
// wherever that is now; where the other names of a hard link are has to be found.
func (fs *FS) placesFor(n *node) ([]place, error) {
	names, err := fs.tree.names(n.low)
	if err != nil {
		return nil, err
	}
	if len(names) > 1 {
		if names, err = fs.visible(names); err != nil {
			return nil, err
		}
	}
	var places []place
	for _, name := range names {
		parent, err := fs.up(ref{fs.nodes.slot(name.dir).node.Load(), name.dir})
		if err != nil {
			return nil, err
		}
		places = append(places, place{parent, name.name})
	}
	return places, nil
}

// stage makes the copy of a lower file, which nobody sees yet.
func (fs *FS) stage(n *node, data need) (staged *copyup.Staged, err error) {
	var st unix.Stat_t
	if err := fs.tree.stat(n.low, &st); err != nil {
		return nil, err
	}
	job := copyup.Job{Stat: st, Work: fs.work, Temp: fs.temp(), Ino: n.ino, Empty: data == noData, Volatile: fs.opt.Volatile}
	job.Live = fs.live
	if job.Metadata, err = fs.mayBorrow(n, data, &st); err != nil {
		return nil, err
	}
	job.Same = func(st *unix.Stat_t) error { return fs.tree.same(n.low, st) }
	job.OpenData = func() (int, error) { return fs.tree.open(n.low) }
	job.Stat.Uid, job.Stat.Gid = fs.copiedOwner(&st)
	if fs.opt.Override != NoOverride {
		return fs.stageKept(n, job)
	}
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

// settle puts the copy in its places, unless the name was removed meanwhile: then
// the file lives on without one, for those who have it open.
func (fs *FS) settle(n *node, places []place, staged *copyup.Staged) error {
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	places, err := fs.shown(places)
	if err != nil {
		staged.Discard()
		return err
	}
	if fs.nodes.slot(n.low).gone.Load() || len(places) == 0 {
		fd, err := staged.Nameless()
		if err != nil {
			return err
		}
		n.mu.Lock()
		n.pinned = fd
		n.mu.Unlock()
	} else if err := fs.settleNamed(n, places, staged); err != nil {
		return err
	}
	if staged.Metadata() {
		n.meta.Store(&metacopy{n.low})
		n.upper.Store(true)
		return nil
	}
	if n.isDir() || n.kind == unix.S_IFREG { // else it stands for something that is not opened here
		fs.keepOpen(n, staged.Take())
	}
	n.upper.Store(true)
	if n.kind == unix.S_IFREG {
		fs.fds.drop(fdKey{kind: lowerFileFD, id: uint64(n.low)}) // nobody asks for it again
	}
	return nil
}

// keepOpen hands the descriptor of a copy to the cache, if there is one.
func (fs *FS) keepOpen(n *node, fd int) {
	switch {
	case fd < 0:
	case n.isDir():
		fs.fds.put(fdKey{kind: upperDirFD, id: n.id}, fd, false).release()
	default:
		fs.fds.put(fdKey{kind: fileFD, id: n.id}, fd, true).release()
	}
}

// shown leaves out the places where the upper has something else, or a whiteout.
// Preconditions: fs.ns is held for reading.
func (fs *FS) shown(places []place) (list []place, err error) {
	for _, p := range places {
		d, err := fs.loadDir(p.dir)
		if err != nil {
			return nil, err
		}
		d.mu.RLock()
		if d.entries[p.name] == nil && !d.removed {
			list = append(list, p)
		}
		d.mu.RUnlock()
	}
	return list, nil
}

// settleNamed gives the copy all its names: first the further ones, which can be
// taken back, then the first, by which it leaves the work directory if it is there.
// Preconditions: fs.ns is held for reading.
func (fs *FS) settleNamed(n *node, places []place, staged *copyup.Staged) error {
	for k := len(places) - 1; k >= 0; k-- {
		publish := staged.Link
		if k == 0 {
			publish = staged.Publish
		}
		if err := fs.settleIn(n, places[k], publish); err != nil {
			staged.Discard()
			return errors.Join(err, fs.takeBack(places[k+1:]))
		}
	}
	if n.isDir() {
		n.dir.beginEmpty(n.low)
	}
	return fs.enterAll(n, places)
}

func (fs *FS) settleIn(n *node, p place, publish func(dir int, name string) error) error {
	dir, err := fs.upperFD(p.dir)
	if err != nil {
		return err
	}
	defer dir.release()
	p.dir.dir.mu.Lock()
	defer p.dir.dir.mu.Unlock()
	return keepTimes(dir.fd, func() error { return publish(dir.fd, p.name) })
}

// takeBack removes names that were given to a copy that then could not be settled.
func (fs *FS) takeBack(places []place) (err error) {
	for _, p := range places {
		dir, dirErr := fs.upperFD(p.dir)
		if dirErr != nil {
			err = errors.Join(err, dirErr)
			continue
		}
		err = errors.Join(err, keepTimes(dir.fd, func() error { return at.Unlink(dir.fd, p.name) }))
		dir.release()
	}
	return err
}

// enterAll notes a file that came up in its directories.
func (fs *FS) enterAll(n *node, places []place) error {
	for _, p := range places {
		n.addPlace(p)
		p.dir.dir.mu.Lock()
		err := fs.insertLocked(p.dir.dir, &upperEntry{name: p.name, kind: n.kind, origin: n.low, ino: n.ino, node: n})
		p.dir.dir.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if len(places) == 1 {
		return nil
	}
	var st unix.Stat_t
	if err := fs.atUpper(n, func(dir int, name string) error { return at.Stat(dir, name, &st) }); err != nil {
		return err
	}
	fs.nodes.shared(n, st.Ino)
	return nil
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
	if m := r.n.meta.Load(); m != nil {
		return fs.borrowed(m)
	}
	return fs.upperFile(r.n, writable)
}

// upperFile opens the regular file of the upper, also one without its data.
func (fs *FS) upperFile(n *node, writable bool) (*openFD, error) {
	key := fdKey{kind: fileFD, id: n.id}
	if o := fs.fds.get(key, writable); o != nil {
		return o, nil
	}
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	fd, err := fs.openUpperFile(n, writable)
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
	flags := unix.O_RDONLY | unix.O_NOATIME // the kernel sees to access times, or nobody
	if writable {
		flags = unix.O_RDWR | unix.O_NOATIME
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
