package unionfs

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// Entry is one file of a [Tree].
type Entry struct {
	Path string      // relative to the root, "" for the root itself
	Stat unix.Stat_t // of the topmost layer; Ino is unique in the tree

	tree *Tree
	inum Inum
}

// Lookup finds path, relative to the root, without following symbolic links. A
// missing one is [fs.ErrNotExist], also where a parent is not a directory.
func (t *Tree) Lookup(path string) (Entry, error) {
	n := Inum(0)
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		next, ok, err := t.lookup(n, name)
		if err != nil && !errors.Is(err, unix.ENOTDIR) {
			return Entry{}, err
		}
		if !ok {
			return Entry{}, &os.PathError{Op: "lookup", Path: path, Err: fs.ErrNotExist}
		}
		n = next
	}
	st, err := t.Stat(n)
	if err != nil {
		return Entry{}, err
	}
	return Entry{Path: strings.Trim(path, "/"), Stat: *st, tree: t, inum: n}, nil
}

// Walk calls fn for the root and for everything below it, a directory before
// what it holds, names in byte order. An error of fn ends the walk and is
// returned.
func (t *Tree) Walk(fn func(Entry) error) error { return t.walk(0, "", fn) }

func (t *Tree) walk(n Inum, path string, fn func(Entry) error) error {
	st, err := t.Stat(n)
	if err != nil {
		return err
	}
	if err := fn(Entry{Path: path, Stat: *st, tree: t, inum: n}); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	d, err := t.load(n)
	if err != nil {
		return err
	}
	if path != "" {
		path += "/"
	}
	for _, e := range d.names {
		if err := t.walk(e.inum, path+e.name, fn); err != nil {
			return err
		}
	}
	return nil
}

// Open opens a regular file for reading. The caller closes it.
func (e Entry) Open() (*os.File, error) {
	fd, err := e.tree.open(e.inum)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), e.Path), nil
}

// Readlink returns the target of a symbolic link.
func (e Entry) Readlink() (string, error) { return e.tree.readlink(e.inum) }

// Xattrs returns the extended attributes, without the union's own.
func (e Entry) Xattrs() (map[string][]byte, error) {
	attrs := make(map[string][]byte)
	if e.tree.inode(e.inum).cut {
		return attrs, nil
	}
	err := e.tree.at(e.inum, func(dir int, name string) error {
		names, err := at.Listxattr(dir, name)
		if err != nil {
			return err
		}
		for _, attr := range names {
			if whiteout.PrivateAttr(attr) {
				continue
			}
			value, err := at.Getxattr(dir, name, attr)
			if err != nil {
				return err
			}
			attrs[attr] = value
		}
		return nil
	})
	return attrs, err
}
