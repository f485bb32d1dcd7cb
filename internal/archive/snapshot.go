package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/copyup"
	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// A Snapshot copies an upper that programs may be writing to, so that they have to stand
// still only while what they changed since is copied once more: first Follow, as often as
// it helps, then, while nobody writes, Finish. It is used by one goroutine.
type Snapshot struct {
	upper, dir int
	owners     owners
	dialect    whiteout.Dialect // that can be written in dir
	marks      map[string]mark  // what was copied, by path
	links      map[inode]string // of this pass: files with several names, and the first of them
	strict     bool             // nobody writes: every error counts
	copied     int64            // bytes of data in this pass
}

// mark is what tells that a file is still the one that was copied.
type mark struct {
	inode inode
	ctime unix.Timespec
	// settled: the last change was so long before the copy that another one has
	// another time for sure.
	settled bool
}

// tick is longer than the steps in which any kernel counts the time of a change.
const tick = 20 * time.Millisecond

// NewSnapshot begins a copy of the upper directory at the path upper in the existing
// empty directory dir, of which the caller removes what is left. Close must be called.
func NewSnapshot(upper, dir string) (*Snapshot, error) {
	s := &Snapshot{upper: -1, dir: -1, owners: newOwners(), marks: map[string]mark{}}
	var err error
	if s.upper, err = at.OpenRoot(upper); err == nil {
		s.dir, err = at.OpenRoot(dir)
	}
	if err == nil {
		s.dialect, err = whiteout.Probe(s.dir)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("copy the upper: %w", err)
	}
	return s, nil
}

// Close frees the descriptors.
func (s *Snapshot) Close() {
	for _, fd := range []int{s.upper, s.dir} {
		if fd >= 0 {
			_ = unix.Close(fd) // directories, read only
		}
	}
	s.upper, s.dir = -1, -1
}

// Follow copies what has changed since the last time, while others may change the upper,
// and returns how many bytes of data that were. What goes away or changes under its hands is left
// for the next time.
func (s *Snapshot) Follow() (copied int64, err error) { return s.pass(false) }

// Finish copies what has changed since Follow. Nobody may write to the upper meanwhile.
func (s *Snapshot) Finish() error {
	_, err := s.pass(true)
	return err
}

func (s *Snapshot) pass(strict bool) (int64, error) {
	s.strict, s.copied, s.links = strict, 0, map[inode]string{}
	dirs := []string{""}
	for i := 0; i < len(dirs); i++ {
		below, err := s.names(dirs[i])
		if err != nil {
			return s.copied, fmt.Errorf("copy the upper: directory %s: %w", quote("/"+dirs[i]), err)
		}
		dirs = append(dirs, below...)
	}
	// From now on nothing changes the times of the directories.
	for _, path := range slices.Backward(dirs) {
		if err := s.tolerate(s.dress(path)); err != nil {
			return s.copied, fmt.Errorf("copy the upper: directory %s: %w", quote("/"+path), err)
		}
	}
	return s.copied, nil
}

// tolerate returns nil for what may happen while others change the upper.
func (s *Snapshot) tolerate(err error) error {
	if s.strict || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EIO) {
		return err
	}
	return nil
}

// names brings the names of one directory up to date, and returns the directories
// among them.
func (s *Snapshot) names(path string) (dirs []string, err error) {
	src, err := at.Beneath(s.upper, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, s.tolerate(err)
	}
	defer func() { _ = unix.Close(src) }() // read only
	dst, err := at.Beneath(s.dir, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(dst) }() // read only
	list, err := at.ReadDir(src)
	if err != nil {
		return nil, s.tolerate(err)
	}
	old, err := at.ReadDir(dst)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, e := range old {
		there[e.Name] = true
	}
	for _, e := range list {
		name := joinName(path, e.Name)
		isDir, err := s.one(src, dst, name, e.Name, there[e.Name])
		if err = s.tolerate(err); err != nil {
			return nil, fmt.Errorf("%s: %w", quote(e.Name), err)
		}
		if isDir {
			dirs = append(dirs, name)
		}
		delete(there, e.Name)
	}
	for name := range there {
		if err := at.RemoveAll(dst, name); err != nil {
			return nil, err
		}
	}
	return dirs, nil
}

// one brings one name up to date. there tells whether the copy has something of it.
func (s *Snapshot) one(src, dst int, path, base string, there bool) (isDir bool, err error) {
	var st unix.Stat_t
	if err := at.Stat(src, base, &st); err != nil {
		return false, errors.Join(err, at.RemoveAll(dst, base))
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		return true, s.makeDir(dst, base, there)
	}
	id := inode{st.Dev, st.Ino}
	if st.Nlink > 1 {
		if first, seen := s.links[id]; seen {
			return false, errors.Join(remove(dst, base, there), linkWithin(s.dir, first, dst, base))
		}
		s.links[id] = path
	}
	before := s.marks[path]
	if there && before.settled && before.inode == id && before.ctime == st.Ctim {
		return false, nil
	}
	delete(s.marks, path)
	if err := remove(dst, base, there); err != nil {
		return false, err
	}
	now := mark{inode: id, ctime: st.Ctim, settled: time.Since(time.Unix(st.Ctim.Unix())) > tick}
	if err := s.copy(src, dst, base, &st); err != nil {
		delete(s.links, id)
		return false, errors.Join(err, at.RemoveAll(dst, base))
	}
	s.marks[path] = now
	return false, nil
}

func remove(dir int, name string, there bool) error {
	if !there {
		return nil
	}
	return at.RemoveAll(dir, name)
}

// makeDir makes a directory, private until it is dressed, unless there is one.
func (s *Snapshot) makeDir(dst int, base string, there bool) error {
	err := at.Mkdir(dst, base, 0o700)
	if !there || !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := at.Stat(dst, base, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return err
	}
	return errors.Join(at.RemoveAll(dst, base), at.Mkdir(dst, base, 0o700))
}

// copy copies what is no directory, with all that [PackUpper] reads of it.
func (s *Snapshot) copy(src, dst int, base string, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK { // is left out of a layer
		return nil
	}
	return s.owners.duplicate(src, dst, base, st, func(in, out int) error {
		if err := hasData(in); err != nil {
			return err
		}
		s.copied += st.Size
		return copyup.Data(in, out)
	})
}

// duplicate copies what is no directory, with its attributes. What there is in a regular
// file is for data to copy, from in to the empty out.
func (o owners) duplicate(src, dst int, base string, st *unix.Stat_t, data func(in, out int) error) error {
	kind := st.Mode & unix.S_IFMT
	switch kind {
	case unix.S_IFLNK:
		target, err := at.Readlink(src, base)
		if err == nil {
			err = at.Symlink(target, dst, base)
		}
		if err != nil {
			return err
		}
	case unix.S_IFREG:
		if err := fill(src, dst, base, data); err != nil {
			return err
		}
	default:
		if err := at.Mknod(dst, base, kind|0o600, st.Rdev); err != nil {
			return err
		}
	}
	if whiteout.IsDevice(st.Mode, st.Rdev) {
		return nil
	}
	a, err := o.attrsOf(src, base, kind)
	if err != nil {
		return err
	}
	return o.dress(dst, base, kind, a)
}

// fill makes a regular file for data to write.
func fill(src, dst int, base string, data func(in, out int) error) error {
	in, err := at.Open(src, base, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(in) }() // read only
	out, err := at.Open(dst, base, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(data(in, out), closeWritten(out))
}

// dress gives a directory its attributes, and the mark of an opaque one.
func (s *Snapshot) dress(path string) error {
	src, err := at.Beneath(s.upper, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(src) }() // read only
	dst, err := at.Beneath(s.dir, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) && !s.strict {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dst) }() // read only
	if err := clearAttrs(dst); err != nil {
		return err
	}
	opaque, err := whiteout.IsOpaque(src)
	if err == nil && opaque {
		err = s.dialect.SetOpaque(dst)
	}
	if err != nil {
		return err
	}
	a, err := s.owners.attrsOf(src, "", unix.S_IFDIR)
	if err != nil {
		return err
	}
	return s.owners.dress(dst, "", unix.S_IFDIR, a)
}

// clearAttrs removes what an earlier pass has given a directory, as far as it may.
func clearAttrs(dir int) error {
	list, err := at.Listxattr(dir, "")
	if err != nil {
		return err
	}
	for _, attr := range list {
		if err := at.Removexattr(dir, "", attr); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.ENODATA) {
			return err
		}
	}
	return nil
}

// closeWritten closes a file that was written to.
func closeWritten(fd int) error { return os.NewSyscallError("close", unix.Close(fd)) }
