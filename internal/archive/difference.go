package archive

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/copyup"
	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// A Difference says what a tree, which was a copy of a chain ([CopyTree]) before programs
// changed it, is compared with, and how the upper is made.
type Difference struct {
	// Below looks up what the chain has at a clean path, as it is on the disk and without
	// following links; false is nothing.
	Below func(path string) (File, bool, error)
	// Names lists a directory of the chain; none if it is not one there.
	Names func(path string) ([]string, error)
	// Whiteout is the dialect of the upper; Auto takes the one that its file system holds.
	Whiteout whiteout.Dialect

	// Link gives the files of the tree another name instead of copying them: nobody may
	// write to the tree any more, and it is on the same file system.
	Link bool
	// Hollow makes files of the right size without data.
	Hollow bool
	// Loose leaves out what vanishes while it is read: programs go on.
	Loose bool
}

// WriteUpper makes in the existing empty directory at the path upper what a view over the
// chain would have there, had it seen the same changes: seen through the chain it shows
// the tree at the path tree. A file that the chain has just so, with all its names, is left
// out, and so is a directory of which nothing is left. What no upper can say is left
// out as well: devices 0/0, names of whiteouts, and the attributes of a union.
//
// It changes nothing in the tree. After an error what was made is the caller's to remove.
func (d Difference) WriteUpper(tree, upper string) error {
	w := &upperWriter{Difference: d, owners: newOwners(), root: -1, links: map[inode]string{}, kin: newKinship(), buf: make([]byte, chunkSize)}
	src, err := at.OpenRoot(tree)
	if err != nil {
		return fmt.Errorf("compare the copy: %w", err)
	}
	defer func() { _ = unix.Close(src) }() // read only
	if w.root, err = at.OpenRoot(upper); err != nil {
		return fmt.Errorf("compare the copy: %w", err)
	}
	defer func() { _ = unix.Close(w.root) }() // a directory
	if w.dialect = d.Whiteout; w.dialect == whiteout.Auto {
		if w.dialect, err = whiteout.Probe(w.root); err != nil {
			return fmt.Errorf("compare the copy: %w", err)
		}
	}
	if err = w.relate(src, "", true); err != nil {
		return fmt.Errorf("compare the copy: %w", err)
	}
	if err = w.walk(&upperDir{src: src, dst: w.root, shows: true}); err != nil {
		return fmt.Errorf("compare the copy: %w", err)
	}
	return w.dressDir(src, w.root)
}

type upperWriter struct {
	Difference
	owners  owners
	dialect whiteout.Dialect
	root    int // of the upper
	kin     kinship
	links   map[inode]string // files with several names, and the first in the upper
	buf     []byte
}

// An upperDir is a directory that is compared. In the upper it is made when there is
// something to put into it.
type upperDir struct {
	parent     *upperDir // nil for the root
	path, base string
	src        int
	dst        int  // -1 while there is none
	shows      bool // the chain has a directory there, which is seen in it
	opaque     bool // the chain is not seen in it, and has something there
}

// made makes the directory in the upper, and those above it, unless it is there.
func (w *upperWriter) made(d *upperDir) (err error) {
	if d.dst >= 0 {
		return nil
	}
	if err := w.made(d.parent); err != nil {
		return err
	}
	if err := at.Mkdir(d.parent.dst, d.base, 0o700); err != nil {
		return err
	}
	d.dst, err = at.OpenDir(d.parent.dst, d.base)
	if err == nil && d.opaque {
		err = w.dialect.SetOpaque(d.dst)
	}
	return err
}

// walk compares what is in a directory.
func (w *upperWriter) walk(d *upperDir) error {
	list, below, err := w.list(d.src, d.path, d.shows)
	if err != nil {
		return w.ifGone(err)
	}
	for _, e := range list {
		delete(below, e.Name)
	}
	if w.hidesTooLong(below) { // then it hides all of the chain, and has what is left of it
		d.shows, d.opaque, below = false, true, nil
		if err := w.reopened(d); err != nil {
			return err
		}
	}
	for _, e := range list {
		if err := w.entry(d, e); err != nil {
			return fmt.Errorf("%s: %w", quote(e.Name), err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(below)) {
		if err := w.made(d); err != nil {
			return err
		}
		if err := w.dialect.Hide(d.dst, name); err != nil {
			return err
		}
	}
	return nil
}

// list reads a directory of the tree, without what no upper can have, and the names that
// the chain has there.
func (w *upperWriter) list(src int, path string, shows bool) (list []at.Dirent, below map[string]bool, err error) {
	found, err := whiteout.Read(src)
	if err != nil {
		return nil, nil, err
	}
	below = map[string]bool{}
	if shows {
		names, err := w.Names(path)
		if err != nil {
			return nil, nil, err
		}
		for _, name := range names {
			below[name] = true
		}
	}
	return found.Entries, below, nil
}

// hidesTooLong tells whether there is no room for the prefix of a whiteout.
func (w *upperWriter) hidesTooLong(names map[string]bool) bool {
	if w.dialect != whiteout.OCI {
		return false
	}
	for name := range names {
		if len(whiteout.Prefix+name) > unix.NAME_MAX {
			return true
		}
	}
	return false
}

// reopened makes d, which has become opaque.
func (w *upperWriter) reopened(d *upperDir) error {
	if d.dst >= 0 {
		return w.dialect.SetOpaque(d.dst)
	}
	return w.made(d)
}

// entry compares one name.
func (w *upperWriter) entry(d *upperDir, e at.Dirent) error {
	path := joinName(d.path, e.Name)
	var st unix.Stat_t
	if err := at.Stat(d.src, e.Name, &st); err != nil {
		return w.ifGone(err)
	}
	lower, below, err := w.lower(path, d.shows)
	if err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		return w.directory(d, e.Name, lower, below)
	}
	if below {
		same, err := w.same(d.src, e.Name, &st, &lower)
		if err != nil || same {
			return w.ifGone(err)
		}
	}
	if err := w.made(d); err != nil {
		return err
	}
	return w.put(d, e.Name, path, &st)
}

// lower is Below where the chain is seen.
func (w *upperWriter) lower(path string, shows bool) (File, bool, error) {
	if !shows {
		return File{}, false, nil
	}
	lower, below, err := w.Below(path)
	if err == nil && below {
		err = w.owners.asCopied(&lower) // as it came into the copy
	}
	return lower, below, err
}

// ifGone drops the error of what has vanished, or turned into something else, where
// programs go on.
func (w *upperWriter) ifGone(err error) error {
	if w.Loose && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EINVAL)) {
		return nil
	}
	return err
}

func (w *upperWriter) directory(parent *upperDir, base string, lower File, below bool) error {
	src, err := at.OpenDir(parent.src, base)
	if err != nil {
		return w.ifGone(err)
	}
	defer func() { _ = unix.Close(src) }() // read only
	d := &upperDir{parent: parent, path: joinName(parent.path, base), base: base, src: src, dst: -1}
	d.shows = below && lower.Stat.Mode&unix.S_IFMT == unix.S_IFDIR
	d.opaque = below && !d.shows
	same := false
	if d.shows {
		if same, err = w.sameAttrs(src, "", unix.S_IFDIR, &lower); err != nil {
			return err
		}
	}
	if !same {
		if err := w.made(d); err != nil {
			return err
		}
	}
	err = w.walk(d)
	if d.dst < 0 {
		return err
	}
	defer func() { _ = unix.Close(d.dst) }() // a directory
	if err != nil {
		return err
	}
	return w.dressDir(src, d.dst)
}

// dressDir gives a directory of the upper, to which nothing more comes, its attributes.
func (w *upperWriter) dressDir(src, dst int) error {
	a, err := w.owners.attrsOf(src, "", unix.S_IFDIR)
	if err != nil {
		return err
	}
	return w.owners.dress(dst, "", unix.S_IFDIR, a)
}

func (w *upperWriter) sameAttrs(dir int, base string, kind uint32, lower *File) (bool, error) {
	a, err := w.owners.attrsOf(dir, base, kind)
	if err != nil {
		return false, err
	}
	b, err := w.owners.attrsFrom(&lower.Stat, lower.Xattrs)
	return err == nil && a.standsFor == b.standsFor && a.equal(b), err
}

// same tells whether a file, which is no directory, is the one of the chain.
func (w *upperWriter) same(dir int, base string, st *unix.Stat_t, lower *File) (bool, error) {
	kind := st.Mode & unix.S_IFMT
	if kind != lower.Stat.Mode&unix.S_IFMT || w.kin.broken[inode{st.Dev, st.Ino}] {
		return false, nil
	}
	if kind == unix.S_IFREG && st.Size != lower.Stat.Size || st.Rdev != lower.Stat.Rdev {
		return false, nil
	}
	if same, err := w.sameAttrs(dir, base, kind, lower); err != nil || !same {
		return false, err
	}
	switch kind {
	case unix.S_IFLNK:
		target, err := at.Readlink(dir, base)
		return target == lower.Link, err
	case unix.S_IFREG:
		return sameData(dir, base, lower, w.buf, func(int) error { return nil })
	}
	return true, nil
}

// put puts a file into a directory of the upper.
func (w *upperWriter) put(d *upperDir, base, path string, st *unix.Stat_t) error {
	id := inode{st.Dev, st.Ino}
	if st.Nlink > 1 {
		if first, seen := w.links[id]; seen {
			return linkWithin(w.root, first, d.dst, base)
		}
	}
	linked, err := w.link(d, base, st)
	if err == nil && !linked {
		err = w.copy(d, base, st)
	}
	if err != nil {
		if w.ifGone(err) == nil {
			return at.RemoveAll(d.dst, base)
		}
		return err
	}
	if st.Nlink > 1 {
		w.links[id] = path
	}
	return nil
}

// manyNames is from how many names on a file is copied: file systems allow 65,000, or
// 32,000.
const manyNames = 10_000

// link gives a file of the tree a name in the upper, if that may be: not where it has an
// attribute that would mean something there.
func (w *upperWriter) link(d *upperDir, base string, st *unix.Stat_t) (bool, error) {
	if !w.Link || st.Nlink > manyNames {
		return false, nil
	}
	attrs, err := at.Listxattr(d.src, base)
	if err != nil || slices.ContainsFunc(attrs, whiteout.PrivateAttr) {
		return false, err
	}
	err = at.Link(d.src, base, d.dst, base)
	for _, refused := range []unix.Errno{unix.EPERM, unix.EMLINK, unix.EOPNOTSUPP, unix.EXDEV} {
		if errors.Is(err, refused) {
			return false, nil
		}
	}
	return err == nil, err
}

// copy makes the file in the upper. A socket means nothing without the program that listens.
func (w *upperWriter) copy(d *upperDir, base string, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil
	}
	return w.owners.duplicate(d.src, d.dst, base, st, func(in, out int) error {
		if w.Hollow {
			return os.NewSyscallError("ftruncate", unix.Ftruncate(out, st.Size))
		}
		return copyup.Data(in, out)
	})
}

// kinship says which files of the tree have other names than the chain's, or share them with
// others. They can not be left out, whatever is in them: a program that writes to one
// name of a file writes to all.
type kinship struct {
	theirs map[inode]inode // of the chain, by the file of the tree
	ours   map[inode]inode // the reverse
	broken map[inode]bool  // files of the tree
}

func newKinship() kinship {
	return kinship{theirs: map[inode]inode{}, ours: map[inode]inode{}, broken: map[inode]bool{}}
}

// relate goes through the tree and notes all files of several names, there or in the chain.
func (w *upperWriter) relate(src int, path string, shows bool) error {
	list, _, err := w.list(src, path, false)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := w.relateOne(src, joinName(path, e.Name), e, shows); err != nil && w.ifGone(err) != nil {
			return fmt.Errorf("%s: %w", quote(e.Name), err)
		}
	}
	return nil
}

func (w *upperWriter) relateOne(src int, path string, e at.Dirent, shows bool) error {
	lower, below, err := w.lower(path, shows)
	if err != nil {
		return err
	}
	isDir := below && lower.Stat.Mode&unix.S_IFMT == unix.S_IFDIR
	if e.Type == unix.DT_DIR {
		fd, err := at.OpenDir(src, e.Name)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }() // read only
		return w.relate(fd, path, isDir)
	}
	var st unix.Stat_t
	if err := at.Stat(src, e.Name, &st); err != nil {
		return err
	}
	if st.Nlink > 1 || below && lower.several() {
		w.kin.note(&st, &lower.Stat, below && !isDir)
	}
	return nil
}

// note notes that st is a file of the tree at a path where the chain has lower, if it
// has something there.
func (k *kinship) note(st, lower *unix.Stat_t, below bool) {
	mine, theirs := inode{st.Dev, st.Ino}, inode{lower.Dev, lower.Ino}
	if !below {
		k.broken[mine] = true
		return
	}
	if known, ok := k.theirs[mine]; ok && known != theirs {
		k.broken[mine] = true
	}
	if known, ok := k.ours[theirs]; ok && known != mine {
		k.broken[mine], k.broken[known] = true, true
	}
	k.theirs[mine], k.ours[theirs] = theirs, mine
}
