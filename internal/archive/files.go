package archive

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// Files walks name in the directory behind dir, and all below it if it is a directory,
// for [WriteTree], where it is called as ("" makes it the root of the archive). Each file
// is opened by its one name in its directory, never through a symbolic link, and is what
// its descriptor says: whoever exchanges names meanwhile gets an error, or another of the
// files below name. What vanishes below name while it is walked is left out.
func Files(dir int, name, as string) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		w := treeWalk{yield: yield}
		if err := w.visit(dir, name, as); err != nil && !errors.Is(err, errEnough) {
			yield(File{}, fmt.Errorf("read %s: %w", quote(name), err))
		}
	}
}

// errEnough ends a walk whose consumer wants no more.
var errEnough = errors.New("enough")

// mostTries is how often a name may turn into something of another kind between a look
// at it and its opening.
const mostTries = 100

type treeWalk struct{ yield func(File, error) bool }

// visit yields name in dir, and what is below it.
func (w *treeWalk) visit(dir int, name, path string) error {
	for range mostTries {
		var st unix.Stat_t
		if err := at.Stat(dir, name, &st); err != nil {
			return err
		}
		var err error
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			err = w.directory(dir, name, path)
		case unix.S_IFREG:
			err = w.regular(dir, name, path)
		case unix.S_IFLNK:
			err = w.link(dir, name, path, st)
		default: // nothing of it but its name and attributes is read
			err = w.give(File{Path: path, Stat: st})
		}
		if !errors.Is(err, errOther) {
			return err
		}
	}
	return errOther
}

// errOther: a name is no longer what it was.
var errOther = errors.New("it is exchanged again and again while it is read")

// open opens what was seen to be of a kind, and sees to it that it still is.
func (w *treeWalk) open(dir int, name string, kind uint32, flags int) (fd int, st unix.Stat_t, err error) {
	fd, err = at.Open(dir, name, flags|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOATIME, 0)
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENXIO):
		return -1, st, errOther
	case err != nil:
		return -1, st, err
	}
	if err = at.Stat(fd, "", &st); err == nil && st.Mode&unix.S_IFMT != kind {
		err = errOther
	}
	if err != nil {
		_ = unix.Close(fd) // only read
		return -1, st, err
	}
	return fd, st, nil
}

func (w *treeWalk) directory(dir int, name, path string) error {
	fd, st, err := w.open(dir, name, unix.S_IFDIR, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // only read
	f := File{Path: path, Stat: st}
	if f.Xattrs, err = openXattrs(fd); err != nil {
		return err
	}
	if err := w.give(f); err != nil {
		return err
	}
	list, err := at.ReadDir(fd)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b at.Dirent) int { return strings.Compare(a.Name, b.Name) })
	for _, entry := range list {
		err := w.visit(fd, entry.Name, joinName(path, entry.Name))
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
		case errors.Is(err, errEnough):
			return err
		default:
			return fmt.Errorf("%s: %w", quote(entry.Name), err)
		}
	}
	return nil
}

func (w *treeWalk) regular(dir int, name, path string) error {
	fd, st, err := w.open(dir, name, unix.S_IFREG, unix.O_RDONLY)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	defer func() { _ = file.Close() }() // only read; for the second time, if it was taken
	f := File{Path: path, Stat: st, Open: func() (io.ReadCloser, error) { return file, nil }}
	if f.Xattrs, err = openXattrs(fd); err != nil {
		return err
	}
	return w.give(f)
}

func (w *treeWalk) link(dir int, name, path string, st unix.Stat_t) error {
	target, err := at.Readlink(dir, name)
	if errors.Is(err, unix.EINVAL) {
		return errOther
	}
	if err != nil {
		return err
	}
	return w.give(File{Path: path, Stat: st, Link: target})
}

func (w *treeWalk) give(f File) error {
	if !w.yield(f, nil) {
		return errEnough
	}
	return nil
}

// openXattrs are those of an open file; a file system without any has none.
func openXattrs(fd int) (map[string][]byte, error) {
	list, err := at.Listxattr(fd, "")
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found map[string][]byte
	for _, attr := range list {
		value, err := at.Getxattr(fd, "", attr)
		switch {
		case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
			continue
		case err != nil:
			return nil, err
		case found == nil:
			found = map[string][]byte{}
		}
		found[attr] = value
	}
	return found, nil
}
