package unionfs

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// Lower is one read-only layer directory.
type Lower struct {
	// Path of the directory; symbolic links on the way to it are followed.
	Path string
	// Cut lists directories below Path, relative to it, that are shown empty and
	// never opened: for loops (a store or a mount point inside the layer) and for
	// places that are somebody else's (/proc of a running machine).
	Cut []string
	// ID names what is in it, for Options.Index.
	ID string
	// Live says that these are the files of a running machine: too many to look
	// through for the other names of a hard link. Each name of one is then brought
	// up by itself, as overlayfs does, and changes stay with the name.
	Live bool
}

// Inum numbers the files of a [Tree], from 0, the root. It stays the same while
// the tree is open.
type Inum uint32

// noInum is the Inum of nothing.
const noInum = ^Inum(0)

// Tree is the read-only union of layer directories, merged lazily: a directory
// is read from all its layers once, when first needed, and the result is kept,
// so every later miss is answered without a system call. It needs no mount. All
// methods may be called from several goroutines.
type Tree struct {
	layers []layer
	roots  []int    // descriptors of the layers' roots
	alone  []uint16 // the numbers of all layers: inode.layers of what only one has is a piece of it
	cuts   bool     // some layer has cuts
	live   bool     // some layer is live
	fds    *fdCache
	devs   devTable
	links  linkTable
	next   ahead
	// override is set before the first use.
	override Override

	mu     sync.RWMutex
	inodes []*inode
}

type layer struct {
	cut  map[string]bool
	live bool
}

// inode is one file of the merged tree. All but the marked fields are set
// before it can be found, and do not change.
type inode struct {
	parent Inum
	name   string
	kind   uint32   // S_IFMT
	layers []uint16 // where it is, top first; a file has one, a merged directory several
	cut    bool

	stat atomic.Pointer[unix.Stat_t]

	loading sync.Mutex // held while the directory is being merged
	dir     atomic.Pointer[lowerDir]
	// set before dir:
	parts []uint16          // the layers that have a part in the directory, top first
	moved map[uint16]string // where it is in one of them, if not where its name says
}

// lowerDir is a merged directory: its names, sorted.
type lowerDir struct {
	names  []lowerName
	listed atomic.Bool // a program has read it
}

func (d *lowerDir) find(name string) (int, bool) {
	return slices.BinarySearchFunc(d.names, name, func(n lowerName, name string) int {
		return strings.Compare(n.name, name)
	})
}

// OpenTree opens the union of lowers, top first. The caller closes the tree.
func OpenTree(lowers []Lower) (*Tree, error) {
	limit, err := fdLimit(len(lowers))
	if err != nil {
		return nil, err
	}
	return openTree(lowers, newFDCache(limit))
}

func openTree(lowers []Lower, fds *fdCache) (*Tree, error) {
	if len(lowers) == 0 {
		return nil, errors.New("a union needs at least one lower directory")
	}
	if len(lowers) > 1<<16-1 {
		return nil, fmt.Errorf("%d lower directories are too many: at most %d", len(lowers), 1<<16-1)
	}
	t := &Tree{fds: fds}
	root := &inode{parent: noInum, kind: unix.S_IFDIR}
	for i, l := range lowers {
		fd, err := at.OpenRoot(l.Path)
		if err != nil {
			t.Close()
			return nil, fmt.Errorf("lower directory: %w", err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			_ = unix.Close(fd) // read only
			t.Close()
			return nil, fmt.Errorf("lower directory %q: %w", l.Path, err)
		}
		hold(fd)
		t.devs.ino(st.Dev, 0) // in this order at every mount, so that inode numbers stay
		cut := make(map[string]bool, len(l.Cut))
		for _, c := range l.Cut {
			cut[strings.Trim(filepath.Clean("/"+c), "/")] = true
		}
		t.roots = append(t.roots, fd)
		t.layers = append(t.layers, layer{cut, l.Live})
		t.cuts = t.cuts || len(cut) > 0
		t.live = t.live || l.Live
		t.alone = append(t.alone, uint16(i))
		root.layers = append(root.layers, uint16(i))
	}
	t.inodes = []*inode{root}
	return t, nil
}

// Close closes all descriptors of the tree, which must not be in use.
func (t *Tree) Close() {
	t.next.stop()
	t.fds.closeAll()
	for _, fd := range t.roots {
		_ = unix.Close(fd) // a directory, read only
	}
	t.roots = nil
}

func (t *Tree) inode(n Inum) *inode {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.inodes[n]
}

// has tells whether n is a number of this tree: node ids come from outside.
func (t *Tree) has(n Inum) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return int(n) < len(t.inodes)
}

func (t *Tree) size() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.inodes)
}

// lookup finds name in the directory dir.
func (t *Tree) lookup(dir Inum, name string) (Inum, bool, error) {
	d, err := t.load(dir)
	if err != nil {
		return noInum, false, err
	}
	i, ok := d.find(name)
	if !ok {
		return noInum, false, nil
	}
	return d.names[i].inum, true, nil
}

// path is the place of n below the root of the tree, without a leading slash.
func (t *Tree) path(n Inum) string {
	var parts []string
	for n != 0 {
		i := t.inode(n)
		parts = append(parts, i.name)
		n = i.parent
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// pathIn is the place of the directory n below the root of one layer, which
// differs from path where a directory above it was moved (see redirect.go).
func (t *Tree) pathIn(n Inum, layer uint16) string {
	var parts []string
	for n != 0 {
		i := t.inode(n)
		if p, ok := i.moved[layer]; ok {
			if p != "" { // not the root of the layer
				parts = append(parts, p)
			}
			break
		}
		parts = append(parts, i.name)
		n = i.parent
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// dirFD opens the directory n as it is in one layer. The caller releases it.
func (t *Tree) dirFD(layer uint16, n Inum) (*openFD, error) {
	key := fdKey{lowerDirFD, layer, uint64(n)}
	if o := t.fds.get(key, false); o != nil {
		return o, nil
	}
	fd, err := t.openDir(layer, n)
	if err != nil {
		return nil, stale(err)
	}
	return t.fds.put(key, fd, false), nil
}

// openDir opens the directory n of one layer in its parent, where that is open, else
// on the way from the root.
func (t *Tree) openDir(layer uint16, n Inum) (int, error) {
	i := t.inode(n)
	if _, moved := i.moved[layer]; !moved && n != 0 {
		if parent := t.fds.get(fdKey{lowerDirFD, layer, uint64(i.parent)}, false); parent != nil {
			defer parent.release()
			return at.OpenDir(parent.fd, i.name)
		}
	}
	return at.Beneath(t.roots[layer], t.pathIn(n, layer), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOATIME)
}

// at calls fn with a descriptor of the directory that n is in, and n's name in
// it; for the root with the root itself and "".
func (t *Tree) at(n Inum, fn func(dir int, name string) error) error {
	i := t.inode(n)
	if n == 0 {
		return fn(t.roots[0], "")
	}
	dir, err := t.dirFD(i.layers[0], i.parent)
	if err != nil {
		return err
	}
	defer dir.release()
	return stale(fn(dir.fd, i.name))
}

// Stat returns the attributes of n in its topmost layer, with an inode number
// that is unique in the tree. They are read once: layers do not change.
func (t *Tree) Stat(n Inum) (*unix.Stat_t, error) {
	i := t.inode(n)
	if st := i.stat.Load(); st != nil {
		return st, nil
	}
	st, err := t.readStat(n)
	if err != nil {
		return nil, err
	}
	if st.Nlink > 1 && i.kind != unix.S_IFDIR {
		if err := t.countLinks(i, st); err != nil {
			return nil, err
		}
	}
	i.stat.Store(st)
	return st, nil
}

// readStat is Stat but for the names that a file has: it tells how many the layer has.
func (t *Tree) readStat(n Inum) (*unix.Stat_t, error) {
	i, st := t.inode(n), new(unix.Stat_t)
	if i.cut {
		*st = unix.Stat_t{Mode: unix.S_IFDIR | 0o755, Nlink: 2, Blksize: 4096, Ino: cutIno | uint64(n)}
		return st, nil
	}
	err := t.at(n, func(dir int, name string) error { return t.override.statHere(dir, name, st) })
	if err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != i.kind {
		return nil, fmt.Errorf("%q changed its type: %w", i.name, unix.ESTALE)
	}
	st.Ino = t.devs.ino(st.Dev, st.Ino)
	if len(i.layers) > 1 {
		st.Nlink = 1 // merged: nobody has counted its subdirectories
	}
	return st, t.countBlocks(n, st)
}

// open opens the regular file n for reading. The descriptor is the caller's. A
// file that is no longer the one that Stat saw gives ESTALE.
func (t *Tree) open(n Inum) (fd int, err error) {
	if _, err := t.Stat(n); err != nil {
		return -1, err
	}
	err = t.at(n, func(dir int, name string) (err error) {
		fd, err = openLower(dir, name)
		return err
	})
	if err == nil {
		fd, err = checkOpened(t, n, fd, t.layers[t.inode(n).layers[0]].live)
	}
	if err != nil {
		return -1, err
	}
	return t.data(n, fd)
}

// openLower opens a file of a layer for reading, without a trace where we may.
func openLower(dir int, name string) (int, error) {
	return at.Open(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOATIME, 0)
}

// checkOpened returns fd, which was opened as the file n, if it is that file as it
// was. If not it closes it, and says ESTALE.
func checkOpened(t lowers, n Inum, fd int, live bool) (int, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil {
		err = checkSame(t, n, &st, live)
	}
	if err != nil {
		_ = unix.Close(fd) // read only
		return -1, err
	}
	return fd, nil
}

// checkSame is ESTALE if st is not of the file n as it was. A file system may use an
// inode number again at once, so size and time are compared, too; but not in a live
// layer, whose files may be written to. Of a directory only that it is one counts:
// overlayfs as a layer gives some of them new numbers.
func checkSame(t lowers, n Inum, st *unix.Stat_t, live bool) error {
	var known unix.Stat_t
	if err := t.stat(n, &known); err != nil {
		return err
	}
	same := st.Mode&unix.S_IFMT == known.Mode&unix.S_IFMT
	if same && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		same = t.unique(st.Dev, st.Ino) == t.ino(n) && (live || st.Size == known.Size && st.Mtim == known.Mtim)
	}
	if !same {
		return fmt.Errorf("%q: it changed below the union: %w", t.path(n), unix.ESTALE)
	}
	return nil
}

func (t *Tree) unchanged(n Inum) error {
	return t.at(n, func(dir int, name string) error { return t.checkNamed(n, dir, name) })
}

// checkNamed is unchanged for where at says that n is. Who reads something by name asks
// afterwards: a file that is still there then was there all the time.
func (t *Tree) checkNamed(n Inum, dir int, name string) error {
	if n == 0 {
		return nil // it is open since the tree is
	}
	var st unix.Stat_t
	if err := t.override.statHere(dir, name, &st); err != nil {
		return err
	}
	return checkSame(t, n, &st, t.layers[t.inode(n).layers[0]].live)
}

// readlink returns the target of the symbolic link n.
func (t *Tree) readlink(n Inum) (target string, err error) {
	if t.inode(n).kind != unix.S_IFLNK {
		return "", unix.EINVAL
	}
	err = t.at(n, func(dir int, name string) (err error) {
		if target, err = t.override.readlink(dir, name); err != nil {
			return err
		}
		return t.checkNamed(n, dir, name)
	})
	return target, err
}

// stale turns "it is not there" about something that was there into ESTALE.
func stale(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("%v: it changed below the union: %w", err, unix.ESTALE)
	}
	return err
}
