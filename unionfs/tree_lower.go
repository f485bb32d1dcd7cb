package unionfs

import (
	"cmp"
	"iter"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// The methods that make a Tree the lowers of a view.

func (t *Tree) kind(n Inum) uint32 { return t.inode(n).kind }
func (t *Tree) isCut(n Inum) bool  { return t.inode(n).cut }

func (t *Tree) ino(n Inum) uint64 {
	st, err := t.Stat(n)
	if err != nil {
		return 0
	}
	return st.Ino
}

func (t *Tree) stat(n Inum, st *unix.Stat_t) error {
	have, err := t.Stat(n)
	if err == nil {
		*st = *have
	}
	return err
}

func (t *Tree) count(dir Inum) (int, error) {
	d, err := t.load(dir)
	if err != nil {
		return 0, err
	}
	return len(d.names), nil
}

func (t *Tree) child(dir Inum, k int) lowerName { return t.inode(dir).dir.Load().names[k] }

func (t *Tree) getxattr(n Inum, attr string) (value []byte, err error) {
	if t.isCut(n) {
		return nil, unix.ENODATA
	}
	err = t.at(n, func(dir int, name string) (err error) {
		value, err = at.Getxattr(dir, name, attr)
		return cmp.Or(t.checkNamed(n, dir, name), err)
	})
	return value, err
}

func (t *Tree) listxattr(n Inum) (names []string, err error) {
	if t.isCut(n) {
		return nil, nil
	}
	err = t.at(n, func(dir int, name string) (err error) {
		names, err = at.Listxattr(dir, name)
		return cmp.Or(t.checkNamed(n, dir, name), err)
	})
	return names, err
}

func (t *Tree) same(n Inum, st *unix.Stat_t) error {
	return checkSame(t, n, st, t.layers[t.inode(n).layers[0]].live)
}

func (t *Tree) unique(dev, ino uint64) uint64 { return t.devs.ino(dev, ino) }
func (t *Tree) rootFD() int                   { return t.roots[0] }

// splitPath gives the names of a path, without empty ones.
func splitPath(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range strings.SplitSeq(path, "/") {
			if name != "" && !yield(name) {
				return
			}
		}
	}
}
