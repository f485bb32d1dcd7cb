package index

import (
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Index is an open index. All methods but Close may be called from several
// goroutines, with inode numbers below Len; a larger one panics, as an index into
// a slice does. Byte slices that a method returns are parts of the mapping: they
// must not be written to, nor used after Close.
type Index struct {
	sections
	slotCount uint32
	layerIDs  []string
	unmap     func() error
}

// Open maps the index at path and checks all of it. Ids are those of the layers,
// top first, as they were given to Build. The error is [ErrDamaged],
// [ErrVersion], [ErrOtherLayers] or from the file system; in each of these cases
// the index may be built anew. The caller closes the index.
func Open(path string, ids []string) (*Index, error) {
	data, err := mapFile(path)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	x, err := parse(data, ids)
	if err != nil {
		_ = unix.Munmap(data) // it was only read
		return nil, fmt.Errorf("open index %s: %w", path, err)
	}
	x.unmap = func() error { return unix.Munmap(data) }
	return x, nil
}

func mapFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only; the mapping stays
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if size < headerSize || size > math.MaxInt {
		return nil, damaged("%s has %d bytes", path, size)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: path, Err: err}
	}
	return data, nil
}

// Close ends the mapping. The index must not be in use.
func (x *Index) Close() error {
	unmap := x.unmap
	if unmap == nil {
		return nil
	}
	*x = Index{}
	return os.NewSyscallError("munmap", unmap())
}

// Len is how many inodes there are: they are numbered from 0, the root.
func (x *Index) Len() int { return len(x.inodes) / inodeSize }

// Layers is how many layers there are.
func (x *Index) Layers() int { return len(x.layers) / layerSize }

// RootIno is the inode number that the root of a layer, counted from 0, the top
// one, had when the index was built. If it is another now, the layers were
// copied, and the numbers that Stat gives are not those of the files.
func (x *Index) RootIno(layer int) uint64 { return le.Uint64(x.layers[layer*layerSize+8:]) }

// Lookup finds name in the directory dir. In what is no directory there is
// nothing, and "." and ".." are no names.
func (x *Index) Lookup(dir uint32, name string) (inode uint32, ok bool) {
	d, ok := x.find(dir, name)
	if !ok {
		return 0, false
	}
	return le.Uint32(x.dirents[int(d)*direntSize+4:]), true
}

// find returns the dirent of a name.
func (x *Index) find(dir uint32, name string) (dirent uint32, ok bool) {
	h := hash(dir, name)
	at := slotOf(h, x.slotCount)
	for range maxProbe {
		slot := le.Uint64(x.slots[int(at)*slotSize:])
		if slot>>32 == 0 {
			return 0, false
		}
		if uint32(slot) == uint32(h) {
			if d := uint32(slot>>32) - 1; x.parent(d) == dir && string(x.name(d)) == name {
				return d, true
			}
		}
		if at++; at == x.slotCount {
			at = 0
		}
	}
	return x.halve(dir, name)
}

// halve finds a name by halving its directory.
func (x *Index) halve(dir uint32, name string) (dirent uint32, ok bool) {
	first, count := x.children(dir)
	low, high := first, first+count
	for low < high {
		mid := low + (high-low)/2
		if string(x.name(mid)) < name {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, low < first+count && string(x.name(low)) == name
}

// name, parent and target are what a dirent says.
func (x *Index) name(dirent uint32) []byte {
	rec := x.dirents[int(dirent)*direntSize:][:direntSize+4]
	return x.names[le.Uint32(rec):le.Uint32(rec[direntSize:])]
}

func (x *Index) parent(dirent uint32) uint32 { return le.Uint32(x.dirents[int(dirent)*direntSize+8:]) }
func (x *Index) target(dirent uint32) uint32 { return le.Uint32(x.dirents[int(dirent)*direntSize+4:]) }

func (x *Index) inode(n uint32) []byte { return x.inodes[int(n)*inodeSize:][:inodeSize] }

func (x *Index) setOf(n uint32) set {
	return readSet(x.sets[int(le.Uint32(x.inode(n)[40:]))*setSize:])
}

// str returns a string of the text.
func (x *Index) str(id uint32) []byte {
	rec := x.strings[int(id)*stringSize:][:2*stringSize]
	return x.text[le.Uint32(rec):le.Uint32(rec[stringSize:])]
}

// children is the range of dirents of a directory, empty for anything else.
func (x *Index) children(n uint32) (first, count uint32) {
	if x.Kind(n) != unix.S_IFDIR {
		return 0, 0
	}
	rec := x.inode(n)
	return le.Uint32(rec[56:]), le.Uint32(rec[60:])
}

// Kind is the type of a file, as in S_IFMT.
func (x *Index) Kind(inode uint32) uint32 {
	at := int(le.Uint32(x.inode(inode)[40:])) * setSize
	return uint32(le.Uint16(x.sets[at+8:])) & unix.S_IFMT
}

// Ino is the inode number that a file has in its layer, unique over the layers
// even where these are on several devices: the number of the device, in the order
// of the layers' roots, is mixed into its upper 16 bits.
func (x *Index) Ino(inode uint32) uint64 { return le.Uint64(x.inode(inode)) }

// Layer is the topmost layer that has the file, counted from 0.
func (x *Index) Layer(inode uint32) int {
	s := x.setOf(inode)
	return int(s.layer)
}

// Stat fills st as lstat(2) on the file in its topmost layer, with these
// differences: Ino is Ino's, Dev is 0, Nlink is how many names of the file the
// tree shows, and 1 for a directory that several layers have.
func (x *Index) Stat(inode uint32, st *unix.Stat_t) {
	i, s := readInode(x.inode(inode)), x.setOf(inode)
	*st = unix.Stat_t{
		Ino: i.ino, Mode: uint32(s.mode), Uid: s.uid, Gid: s.gid, Size: int64(i.size),
		Mtim: unpackTime(i.mtime), Ctim: unpackTime(i.ctime), Atim: unpackTime(i.atime),
	}
	setNumber(&st.Nlink, uint64(i.nlink))
	setNumber(&st.Blksize, uint64(s.blksize))
	st.Blocks = int64(i.blocks)
	switch s.kind() {
	case unix.S_IFREG:
		st.Blocks |= int64(i.a) << 32
	case unix.S_IFCHR, unix.S_IFBLK:
		st.Rdev = unpackDevice(i.a)
	}
}

// A device number has 12 bits of major and 20 of minor number, as in the kernel.
func packDevice(dev uint64) (uint32, error) {
	major, minor := unix.Major(dev), unix.Minor(dev)
	if major >= 1<<12 || minor >= 1<<20 {
		return 0, fmt.Errorf("device %d:%d: %w", major, minor, unix.EOVERFLOW)
	}
	return major<<20 | minor, nil
}

func unpackDevice(v uint32) uint64 { return unix.Mkdev(v>>20, v&(1<<20-1)) }

// Count is how many names the directory dir has; 0 for what is none.
func (x *Index) Count(dir uint32) int {
	_, count := x.children(dir)
	return int(count)
}

// Child is the k-th name of the directory dir, in the order of their bytes, from
// 0 to Count-1, and the file behind it.
func (x *Index) Child(dir uint32, k int) (name []byte, inode uint32) {
	first, count := x.children(dir)
	if k < 0 || k >= int(count) {
		panic(fmt.Sprintf("index: child %d of a directory of %d", k, count))
	}
	d := first + uint32(k)
	return x.name(d), x.target(d)
}

// List gives all names of the directory dir in the order of their bytes.
func (x *Index) List(dir uint32) iter.Seq2[[]byte, uint32] {
	return func(yield func([]byte, uint32) bool) {
		first, count := x.children(dir)
		for d := first; d < first+count; d++ {
			if !yield(x.name(d), x.target(d)) {
				return
			}
		}
	}
}

// Readlink is the target of a symbolic link; empty for anything else.
func (x *Index) Readlink(inode uint32) []byte {
	if x.Kind(inode) != unix.S_IFLNK {
		return nil
	}
	return x.str(le.Uint32(x.inode(inode)[56:]))
}

// sameLayers compares the ids with those of the file.
func sameLayers(have, want []string) error {
	if len(have) != len(want) {
		return fmt.Errorf("%w: it has %d, not %d", ErrOtherLayers, len(have), len(want))
	}
	for i := range want {
		if have[i] != want[i] {
			return fmt.Errorf("%w: layer %d is %s, not %s", ErrOtherLayers, i, strings.ToValidUTF8(have[i], "?"), want[i])
		}
	}
	return nil
}
