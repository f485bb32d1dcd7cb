package unionfs

import (
	"golang.org/x/sys/unix"
)

// lowers is the tree of layers below the upper. There are two sources of it, and
// nothing else in a view knows which: [Tree], which merges directories as they are
// needed, and indexed, which reads what was merged before.
//
// All methods may be called from several goroutines. Numbers are valid from the
// moment a method returned them until Close; directories are read in the order of
// their names' bytes, which never changes.
type lowers interface {
	// has tells whether n is a number of this tree: node ids come from outside.
	has(n Inum) bool
	size() int          // how many numbers there are so far
	kind(n Inum) uint32 // S_IFMT
	ino(n Inum) uint64  // inode number to show; 0 if the file can not be looked at
	isCut(n Inum) bool  // see Lower.Cut
	path(n Inum) string // from the root, by one of its names
	// names are all names of n that the tree shows; of a directory, and of a file
	// of a live layer, the one that n was found by.
	names(n Inum) ([]lowerPlace, error)

	// lookup finds name in a directory. All names of a file have one number, see
	// canon.
	lookup(dir Inum, name string) (n Inum, ok bool, err error)
	// canon returns the number that stands for all names of the file n.
	canon(n Inum) (Inum, error)
	// count and child list a directory; a name is valid until Close.
	count(dir Inum) (int, error)
	child(dir Inum, k int) lowerName
	// listing notes that a program reads a directory from its beginning.
	listing(dir Inum)

	// stat fills st as Tree.Stat says.
	stat(n Inum, st *unix.Stat_t) error
	readlink(n Inum) (string, error)
	getxattr(n Inum, attr string) ([]byte, error)
	listxattr(n Inum) ([]string, error)
	// open opens a regular file for reading; the descriptor is the caller's.
	open(n Inum) (int, error)
	// at calls fn with a descriptor of the directory that n is in, and n's name in
	// it; for the root with the root itself and "".
	at(n Inum, fn func(dir int, name string) error) error

	// unchanged is ESTALE if the layer has another file by now where it had n, and same
	// if st is not of n as it was.
	unchanged(n Inum) error
	same(n Inum, st *unix.Stat_t) error

	// unique makes an inode number unique over the devices of layers and upper.
	unique(dev, ino uint64) uint64
	rootFD() int // of the top layer
	Close()
}

// lowerPlace is a name in a lower directory.
type lowerPlace struct {
	dir  Inum
	name string
}

// lowerName is an entry of a lower directory.
type lowerName struct {
	name string
	inum Inum
	ino  uint64 // as getdents gave it, made unique over devices
	kind uint32
}

// lowerDirOf finds a directory by its path from the root.
func lowerDirOf(t lowers, path string) (Inum, bool, error) {
	n := Inum(0)
	for name := range splitPath(path) {
		next, ok, err := t.lookup(n, name)
		if err != nil || !ok {
			return noInum, false, err
		}
		if n = next; t.kind(n) != unix.S_IFDIR {
			return noInum, false, nil
		}
	}
	return n, true, nil
}
