package unionfs

import (
	"errors"
	"fmt"
	"path"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/index"
)

// ErrIndex is the error of [Mount] when Options.Index can not be used: it is
// damaged, or of other layers. The view can be mounted without it, or it can be
// built anew.
var ErrIndex = errors.New("the index of the layers can not be used")

// ErrNoIndex is the [ErrIndex] of layers that can have none: no other index would do.
var ErrNoIndex = fmt.Errorf("%w: there is none of such layers", ErrIndex)

// indexed is the lowers of a chain that has an index. It looks at a layer only to
// open a file and to copy one up.
type indexed struct {
	index *index.Index
	roots []int
	fds   *fdCache
	devs  devTable
}

// openIndexed opens the index at file for lowers, which have no cuts.
func openIndexed(file string, list []Lower, fds *fdCache) (*indexed, error) {
	if err := indexable(list); err != nil {
		return nil, err
	}
	ids := make([]string, len(list))
	for i, l := range list {
		ids[i] = l.ID
	}
	x, err := index.Open(file, ids)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIndex, err)
	}
	t := &indexed{index: x, fds: fds}
	for i, l := range list {
		if err := t.addRoot(i, l.Path); err != nil {
			t.Close()
			return nil, err
		}
	}
	return t, nil
}

// addRoot opens a layer and checks that it is the directory that was indexed, and
// no copy of it: inode numbers are compared when files are opened.
func (t *indexed) addRoot(layer int, path string) error {
	fd, err := at.OpenRoot(path)
	if err != nil {
		return fmt.Errorf("lower directory: %w", err)
	}
	t.roots = append(t.roots, fd)
	hold(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("lower directory %q: %w", path, err)
	}
	if t.devs.ino(st.Dev, st.Ino) != t.index.RootIno(layer) {
		return fmt.Errorf("%w: %q was copied or moved since it was indexed", ErrIndex, path)
	}
	return nil
}

func (t *indexed) listing(Inum) {} // all is known already

// Close ends the mapping of the index: names that child gave are gone.
func (t *indexed) Close() {
	t.fds.closeAll()
	for _, fd := range t.roots {
		_ = unix.Close(fd) // a directory, read only
	}
	t.roots = nil
	_ = t.index.Close() // mapped, read only
}

func (t *indexed) has(n Inum) bool            { return int(n) < t.index.Len() }
func (t *indexed) size() int                  { return t.index.Len() }
func (t *indexed) kind(n Inum) uint32         { return t.index.Kind(uint32(n)) }
func (t *indexed) ino(n Inum) uint64          { return t.index.Ino(uint32(n)) }
func (t *indexed) isCut(Inum) bool            { return false }
func (t *indexed) path(n Inum) string         { return t.index.Path(uint32(n)) }
func (t *indexed) canon(n Inum) (Inum, error) { return n, nil } // the index has one number a file

func (t *indexed) names(n Inum) ([]lowerPlace, error) {
	var list []lowerPlace
	for dir, name := range t.index.Names(uint32(n)) {
		list = append(list, lowerPlace{Inum(dir), string(name)})
	}
	return list, nil
}

func (t *indexed) lookup(dir Inum, name string) (Inum, bool, error) {
	if t.kind(dir) != unix.S_IFDIR {
		return noInum, false, unix.ENOTDIR
	}
	n, ok := t.index.Lookup(uint32(dir), name)
	return Inum(n), ok, nil
}

func (t *indexed) count(dir Inum) (int, error) {
	if t.kind(dir) != unix.S_IFDIR {
		return 0, unix.ENOTDIR
	}
	return t.index.Count(uint32(dir)), nil
}

// child gives a name that lies in the mapping: no directory is copied to be listed.
func (t *indexed) child(dir Inum, k int) lowerName {
	name, n := t.index.Child(uint32(dir), k)
	return lowerName{
		name: unsafe.String(unsafe.SliceData(name), len(name)),
		inum: Inum(n), ino: t.index.Ino(n), kind: t.index.Kind(n),
	}
}

func (t *indexed) stat(n Inum, st *unix.Stat_t) error {
	t.index.Stat(uint32(n), st)
	return nil
}

func (t *indexed) readlink(n Inum) (string, error) {
	if t.kind(n) != unix.S_IFLNK {
		return "", unix.EINVAL
	}
	return string(t.index.Readlink(uint32(n))), nil
}

func (t *indexed) getxattr(n Inum, attr string) ([]byte, error) {
	value, ok := t.index.Xattr(uint32(n), attr)
	if !ok {
		return nil, unix.ENODATA
	}
	return value, nil
}

func (t *indexed) listxattr(n Inum) (names []string, err error) {
	for name := range t.index.Xattrs(uint32(n)) {
		names = append(names, string(name))
	}
	return names, nil
}

func (t *indexed) open(n Inum) (fd int, err error) {
	err = t.at(n, func(dir int, name string) (err error) {
		fd, err = openLower(dir, name)
		return err
	})
	if err == nil {
		fd, err = checkOpened(t, n, fd, false)
	}
	if err != nil || !t.index.Elsewhere(uint32(n)) {
		return fd, err
	}
	_ = unix.Close(fd) // read only
	return t.openData(n)
}

// openData opens the data of a file that has only its metadata in its layer.
func (t *indexed) openData(n Inum) (int, error) {
	layer, place, ok := t.index.Data(uint32(n))
	if !ok {
		return -1, fmt.Errorf("open %q: no layer has its data: %w", t.path(n), unix.EIO)
	}
	fd, err := at.Beneath(t.roots[layer], place, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOATIME)
	if err != nil {
		return -1, stale(err)
	}
	return checkData(t, n, fd)
}

// at opens the directory of one of n's names in the layer that has n.
func (t *indexed) at(n Inum, fn func(dir int, name string) error) error {
	layer, place := t.index.Place(uint32(n))
	if n == 0 {
		return fn(t.roots[layer], "")
	}
	parent := Inum(0)
	for dir := range t.index.Names(uint32(n)) { // the first, which is the one of Place
		parent = Inum(dir)
		break
	}
	key := fdKey{lowerDirFD, uint16(layer), uint64(parent)}
	dir := t.fds.get(key, false)
	if dir == nil {
		fd, err := at.Beneath(t.roots[layer], path.Dir(place), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOATIME)
		if err != nil {
			return stale(err)
		}
		dir = t.fds.put(key, fd, false)
	}
	defer dir.release()
	return stale(fn(dir.fd, path.Base(place)))
}

func (t *indexed) unchanged(n Inum) error {
	return t.at(n, func(dir int, name string) error {
		var st unix.Stat_t
		if n == 0 {
			return nil // it is open since the index is
		}
		if err := at.Stat(dir, name, &st); err != nil {
			return err
		}
		return t.same(n, &st)
	})
}

func (t *indexed) same(n Inum, st *unix.Stat_t) error { return checkSame(t, n, st, false) }

func (t *indexed) unique(dev, ino uint64) uint64 { return t.devs.ino(dev, ino) }
func (t *indexed) rootFD() int                   { return t.roots[0] }
