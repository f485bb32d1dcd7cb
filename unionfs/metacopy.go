package unionfs

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/copyup"
	"github.com/varvefs/varve/whiteout"
)

// A regular file of the upper may have only its metadata there, while its data is
// still a lower file's: in the kernel's form (overlayfs.rst, "Metadata only copy
// up"), so each of us reads what the other wrote. It is read from below until the
// data is touched; then the data is brought into the same file, made durable, and
// only after that the mark is taken off.

// metacopy is what there is to know of such a file.
type metacopy struct {
	data Inum // the lower file that has the data; noInum: none has, which is EIO to read
}

// isWhole tells whether a file is in the upper, with its data.
func (n *node) isWhole() bool { return n.upper.Load() && n.meta.Load() == nil }

// minMetacopy is the size from which only the metadata of a file comes up: smaller
// ones are copied in about the same time (docs/performance.md), and done with.
const minMetacopy = 16 << 10

// mayBorrow tells whether only the metadata of the lower file n has to come up. A
// file with several names comes up whole; one with capabilities, too, since to
// complete it would take those away and give them back, and a crash in between would
// show.
func (fs *FS) mayBorrow(n *node, data need, st *unix.Stat_t) (bool, error) {
	if data != anyData || !fs.metacopy || n.kind != unix.S_IFREG || st.Nlink > 1 || st.Size < minMetacopy {
		return false, nil
	}
	_, err := fs.tree.getxattr(n.low, copyup.CapsAttr)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return true, nil
	}
	return false, err
}

// makesMetacopies tells whether files are to come up without their data: where the
// mark can be written, owners are on the files themselves, and no layer changes under
// the view.
func (fs *FS) makesMetacopies() bool {
	return !fs.opt.NoMetacopy && !fs.opt.NoXattrs && !fs.live &&
		fs.opt.Override == NoOverride && fs.dialect == whiteout.Overlay
}

// metacopyOf tells whether the file e of the directory d of the upper, open as dir, has
// its data below: nil if it has it itself. st is the file's.
// Preconditions: fs.ns is held for reading, and d.mu.
func (fs *FS) metacopyOf(d *upperDir, dir int, e *upperEntry, st *unix.Stat_t) (*metacopy, error) {
	if e.kind != unix.S_IFREG {
		return nil, nil
	}
	marks, err := whiteout.ReadFileMarks(dir, e.name)
	if err != nil || !marks.Metacopy {
		return nil, stale(err)
	}
	low, ok, err := fs.lowerBehind(d, e, marks.Redirect, lowerOfPath)
	if err != nil {
		return nil, err
	}
	if !ok || fs.tree.kind(low) != unix.S_IFREG {
		return &metacopy{noInum}, nil
	}
	var data unix.Stat_t
	if err := fs.tree.stat(low, &data); err != nil {
		return nil, err
	}
	if data.Size != st.Size && st.Size != 0 { // one that was being emptied when a crash came has none
		low = noInum // what is missing would be read as zeros
	}
	return &metacopy{low}, nil
}

// borrowed opens the data of a file of which the upper has only the metadata.
func (fs *FS) borrowed(m *metacopy) (*openFD, error) {
	if m.data == noInum {
		return nil, fmt.Errorf("no layer has the data of a file that is only metadata in the upper: %w", unix.EIO)
	}
	return fs.lowerFile(m.data)
}

// blocks corrects how much space a file takes, which is that of its data.
func (fs *FS) blocks(m *metacopy, st *unix.Stat_t) error {
	if m == nil || m.data == noInum {
		return nil
	}
	var low unix.Stat_t
	err := fs.tree.stat(m.data, &low)
	st.Blocks = low.Blocks
	return err
}

// complete brings the data up of a file of which the upper may have only the
// metadata, if that is needed.
func (fs *FS) complete(n *node, data need) error {
	if data == anyData || n.meta.Load() == nil {
		return nil
	}
	n.copying.Lock()
	defer n.copying.Unlock()
	return fs.completeLocked(n, data)
}

// completeLocked is complete.
// Preconditions: n.copying is held.
func (fs *FS) completeLocked(n *node, data need) error {
	if data == anyData || n.meta.Load() == nil {
		return nil
	}
	job := copyup.Completion{Data: -1, Volatile: fs.opt.Volatile}
	if data == allData {
		data, err := fs.borrowed(n.meta.Load())
		if err != nil {
			return err
		}
		defer data.release()
		job.Data = data.fd
	}
	file, err := fs.upperFile(n, true)
	if err != nil {
		return err
	}
	defer file.release()
	job.File = file.fd
	if err := job.Run(); err != nil {
		return err
	}
	fs.copyUps.addData(job.Copied())
	n.completed.Store(true)
	n.meta.Store(nil)
	return nil
}

// steady keeps the data of a file from being completed while its metadata is
// changed, of which completing puts some back. The caller calls the function that it
// returns when that is done.
func (n *node) steady() (release func()) {
	if n.meta.Load() == nil {
		return func() {}
	}
	n.copying.Lock()
	return n.copying.Unlock
}

// lowerOfPath finds a file by its path from the root of the lowers.
func lowerOfPath(t lowers, path string) (Inum, bool, error) {
	path = strings.TrimRight(path, "/")
	cut := strings.LastIndexByte(path, '/')
	dir, ok, err := lowerDirOf(t, path[:max(cut, 0)])
	if err != nil || !ok {
		return noInum, false, err
	}
	return t.lookup(dir, path[cut+1:])
}

// syncFile waits until a file of the upper is on the disk. That of one whose data
// was completed must be so with its attributes: with the mark back on it after a
// power failure, the new data would be hidden.
func syncFile(n *node, fd int, dataOnly bool) error {
	if dataOnly && !n.completed.Load() && n.meta.Load() == nil {
		return unix.Fdatasync(fd)
	}
	return unix.Fsync(fd)
}
