package index

import (
	"bytes"
	"fmt"
	"math"
	"strings"

	"golang.org/x/sys/unix"
)

// parse checks data and makes an index of it. What it lets pass is safe to use:
// every method ends, and stays inside.
func parse(data []byte, ids []string) (*Index, error) {
	c, err := checkHeader(data)
	if err != nil {
		return nil, err
	}
	x := &Index{sections: c.cut(data), slotCount: c.slots}
	k := checker{Index: x, counts: c, known: make([]uint8, c.strings)}
	// Each step relies on those before it.
	for _, step := range []func() error{
		k.stringOffsets, k.nameOffsets, k.layerTable, k.setTable, k.direntTable, k.inodeTable, k.linkTable, k.nameTable, k.slotTable,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return x, sameLayers(x.layerIDs, ids)
}

func checkHeader(data []byte) (c counts, err error) {
	switch {
	case len(data) < headerSize || string(data[:len(magic)]) != magic:
		return c, damaged("it does not begin as one")
	case le.Uint32(data[atVersion:]) != version:
		return c, fmt.Errorf("%w: %d, not %d", ErrVersion, le.Uint32(data[atVersion:]), version)
	case le.Uint64(data[atSize:]) != uint64(len(data)):
		return c, damaged("it has %d bytes and says %d", len(data), le.Uint64(data[atSize:]))
	case le.Uint32(data[atChecksum:]) != checksum(data):
		return c, damaged("the checksum is wrong")
	}
	c = readCounts(data)
	if size, err := c.fileSize(); err != nil || size != uint64(len(data)) {
		return c, damaged("the sections do not fill it")
	}
	switch {
	case c.inodes == 0 || c.slots == 0 || c.sets == 0 || c.layers == 0 || c.layers >= math.MaxUint16:
		return c, damaged("%d files, %d slots, %d sets, %d layers", c.inodes, c.slots, c.sets, c.layers)
	case uint64(c.dirents) != uint64(c.inodes)-1+uint64(c.links):
		return c, damaged("%d names of %d files with %d links", c.dirents, c.inodes, c.links)
	}
	return c, nil
}

// checker looks at every record once.
type checker struct {
	*Index
	counts counts
	known  []uint8 // what each string was found to be
}

const (
	isXattrs = 1 << iota
	isParts
	isPath
)

func (k *checker) stringOffsets() error {
	last := uint32(0)
	for i := 0; i <= int(k.counts.strings); i++ {
		at := le.Uint32(k.strings[i*stringSize:])
		if at < last || (i == 0 && at != 0) {
			return damaged("string %d begins at %d after %d", i, at, last)
		}
		last = at
	}
	if uint64(last) != k.counts.text {
		return damaged("the strings end at %d of %d", last, k.counts.text)
	}
	return nil
}

func (k *checker) nameOffsets() error {
	last := uint32(0)
	for d := 0; d <= int(k.counts.dirents); d++ {
		at := le.Uint32(k.dirents[d*direntSize:])
		if d == 0 && at != 0 || d > 0 && (at <= last || at-last > maxName) {
			return damaged("name %d begins at %d after %d", d, at, last)
		}
		last = at
	}
	if uint64(last) != k.counts.names {
		return damaged("the names end at %d of %d", last, k.counts.names)
	}
	return nil
}

func (k *checker) layerTable() error {
	for i := range int(k.counts.layers) {
		id := le.Uint32(k.layers[i*layerSize:])
		if id >= k.counts.strings {
			return damaged("layer %d: string %d", i, id)
		}
		k.layerIDs = append(k.layerIDs, string(k.str(id)))
	}
	return nil
}

func (k *checker) setTable() error {
	for i := range int(k.counts.sets) {
		s := readSet(k.sets[i*setSize:])
		if uint32(s.layer) >= k.counts.layers || s.xattrs >= k.counts.strings || s.parts >= k.counts.strings {
			return damaged("set %d: layer %d, strings %d and %d", i, s.layer, s.xattrs, s.parts)
		}
		switch s.kind() {
		case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
		default:
			return damaged("set %d: mode %o", i, s.mode)
		}
		if !k.once(s.xattrs, isXattrs, validXattrs) || !k.once(s.parts, isParts, k.validParts) {
			return damaged("set %d: list of attributes or of parts", i)
		}
		if list := k.str(s.parts); len(list) > 0 && !k.partsOf(&s, list) {
			return damaged("set %d: parts of something else", i)
		}
	}
	return nil
}

// partsOf tells whether a valid list is that of a directory, or of a regular file
// whose data is elsewhere or nowhere.
func (k *checker) partsOf(s *set, list []byte) bool {
	if partLayer(list, 0) != int(s.layer) {
		return false
	}
	switch len(list) / partSize {
	case 1:
		return s.kind() == unix.S_IFREG
	case 2:
		if s.kind() == unix.S_IFREG {
			path := partPath(list, 1)
			return path != none && len(k.str(path)) > 0
		}
	}
	return s.kind() == unix.S_IFDIR
}

// once tells whether a string is valid, looking at it only the first time, so
// that a string that is used a million times is not read a million times.
func (k *checker) once(id uint32, as uint8, valid func([]byte) bool) bool {
	if k.known[id]&as == 0 {
		if !valid(k.str(id)) {
			return false
		}
		k.known[id] |= as
	}
	return true
}

func validXattrs(list []byte) bool {
	for last := []byte(nil); len(list) > 0; {
		name, _, rest, ok := cutXattr(list)
		if !ok || len(name) > maxName || bytes.IndexByte(name, 0) >= 0 || bytes.Compare(last, name) >= 0 {
			return false
		}
		last, list = name, rest
	}
	return true
}

func (k *checker) validParts(list []byte) bool {
	if len(list)%partSize != 0 {
		return false
	}
	for i, last := 0, -1; i < len(list)/partSize; i++ {
		layer, path := partLayer(list, i), partPath(list, i)
		if layer <= last || layer >= int(k.counts.layers) {
			return false
		}
		if path != none && (i == 0 || path >= k.counts.strings || !k.once(path, isPath, validPath)) {
			return false
		}
		last = layer
	}
	return true
}

// validPath tells whether a path stays below where it begins.
func validPath(path []byte) bool {
	if len(path) == 0 {
		return true
	}
	for name := range strings.SplitSeq(string(path), "/") {
		if !isName(name) {
			return false
		}
	}
	return true
}

func (k *checker) direntTable() error {
	for d := range k.counts.dirents {
		if n, dir := k.target(d), k.parent(d); n == 0 || n >= k.counts.inodes || dir >= k.counts.inodes {
			return damaged("name %d: file %d in %d", d, n, dir)
		}
	}
	return nil
}

// inodeTable: directories have all names, one range after the other, and each is
// in a directory with a smaller number, so that every way up ends at the root.
func (k *checker) inodeTable() error {
	next := uint64(0) // dirent of the next directory
	for n := range k.counts.inodes {
		i := readInode(k.inode(n))
		if i.set >= k.counts.sets || !validTimes(i.mtime, i.ctime, i.atime) {
			return damaged("file %d: set %d or its times", n, i.set)
		}
		if err := k.place(n, &i); err != nil {
			return err
		}
		switch k.Kind(n) {
		case unix.S_IFDIR:
			if uint64(i.a) != next || next+uint64(i.b) > uint64(k.counts.dirents) {
				return damaged("directory %d: names from %d, not %d", n, i.a, next)
			}
			for d := i.a; d < i.a+i.b; d++ {
				if k.parent(d) != n {
					return damaged("name %d is in %d, not in %d", d, k.parent(d), n)
				}
			}
			next += uint64(i.b)
		case unix.S_IFLNK:
			if i.a >= k.counts.strings || len(k.str(i.a)) > maxTarget {
				return damaged("link %d: string %d", n, i.a)
			}
		}
	}
	if next != uint64(k.counts.dirents) {
		return damaged("names from %d on are in no directory", next)
	}
	return nil
}

// place checks where a file says that its first name is.
// Preconditions: its set is valid.
func (k *checker) place(n uint32, i *inode) error {
	isDir := k.Kind(n) == unix.S_IFDIR
	switch {
	case n == 0 && (!isDir || i.dirent != none):
		return damaged("the root is no directory")
	case n == 0:
	case i.dirent >= k.counts.dirents || k.target(i.dirent) != n:
		return damaged("file %d: name %d", n, i.dirent)
	case isDir && k.parent(i.dirent) >= n:
		return damaged("directory %d is in %d", n, k.parent(i.dirent))
	}
	return nil
}

func validTimes(times ...uint64) bool {
	for _, t := range times {
		if t&(1<<30-1) >= 1e9 {
			return false
		}
	}
	return true
}

// linkTable: with the first names of all files there are as many names as
// dirents, so if none is there twice, none is missing.
func (k *checker) linkTable() error {
	for i, last := 0, uint64(0); i < int(k.counts.links); i++ {
		n, d := k.link(i)
		key := uint64(n)<<32 | uint64(d)
		if i > 0 && key <= last || n >= k.counts.inodes || d >= k.counts.dirents ||
			k.target(d) != n || k.Kind(n) == unix.S_IFDIR || k.dirent(n) == d {
			return damaged("link %d: name %d of %d", i, d, n)
		}
		last = key
	}
	return k.linkCounts()
}

// linkCounts compares each count of names with the links, which are in order.
func (k *checker) linkCounts() error {
	i := 0
	for n := range k.counts.inodes {
		names := uint32(1)
		for ; i < int(k.counts.links); i++ {
			if have, _ := k.link(i); have != n {
				break
			}
			names++
		}
		if have := le.Uint32(k.inode(n)[44:]); have != names && k.Kind(n) != unix.S_IFDIR {
			return damaged("file %d: %d names, not %d", n, names, have)
		}
	}
	return nil
}

// nameTable: names are names, and in order. Each start of a container comes by here, so
// what no name has is looked for in all of them at once.
func (k *checker) nameTable() error {
	if bytes.IndexByte(k.names, '/') >= 0 || bytes.IndexByte(k.names, 0) >= 0 {
		return damaged("a name has a slash or a zero in it")
	}
	for n := range k.counts.inodes {
		first, count := k.children(n)
		var last []byte
		for d := first; d < first+count; d++ {
			name := k.name(d)
			if string(name) == "." || string(name) == ".." || bytes.Compare(last, name) >= 0 {
				return damaged("name %d: %q", d, name)
			}
			last = name
		}
	}
	return nil
}

// slotTable: slots lead to names, and each name is found.
func (k *checker) slotTable() error {
	for i := range int(k.counts.slots) {
		if d := le.Uint32(k.slots[i*slotSize+4:]); d > k.counts.dirents {
			return damaged("slot %d: name %d", i, d)
		}
	}
	for d := range k.counts.dirents {
		if found, ok := k.find(k.parent(d), string(k.name(d))); !ok || found != d {
			return damaged("name %d is not found", d)
		}
	}
	return nil
}

// isName tells whether name can be one in a directory.
func isName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName && !strings.ContainsAny(name, "/\x00")
}
