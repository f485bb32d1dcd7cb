package index

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// encoder numbers the files of a merged tree and writes them down.
type encoder struct {
	b       *builder
	files   []*entry // by number
	inodes  []inode
	dirents []dirent
	links   []link
	sets    []set
	setIDs  map[set]uint32
	strings []string
	strIDs  map[string]uint32
	linked  map[fileKey]uint32 // files with several names
	text    uint64
	names   uint64
}

type dirent struct {
	name       string
	inode, dir uint32
}

type link struct{ inode, dirent uint32 }

// fileKey is a file of a layer, whatever its name.
type fileKey struct {
	layer    uint16
	dev, ino uint64
}

// encode returns the file. Directories are numbered before what is in them, a
// level after the other, whatever the order in which they were merged.
func (b *builder) encode() ([]byte, error) {
	e := &encoder{
		b: b, setIDs: make(map[set]uint32),
		strIDs: make(map[string]uint32), linked: make(map[fileKey]uint32),
	}
	e.str("")
	if err := e.add(&b.root, none); err != nil {
		return nil, err
	}
	for n := 0; n < len(e.files); n++ {
		if sub := e.files[n].sub; sub != nil {
			if err := e.children(uint32(n), sub); err != nil {
				return nil, err
			}
		}
	}
	return e.bytes()
}

// children numbers what is in a directory.
func (e *encoder) children(n uint32, d *dir) error {
	e.inodes[n].a, e.inodes[n].b = uint32(len(e.dirents)), uint32(len(d.entries))
	for i := range d.entries {
		c := &d.entries[i]
		k := uint32(len(e.dirents))
		inode, known := e.known(c)
		if !known {
			inode = uint32(len(e.files))
			if err := e.add(c, k); err != nil {
				return err
			}
		} else {
			e.inodes[inode].nlink++
			e.links = append(e.links, link{inode, k})
		}
		e.dirents = append(e.dirents, dirent{c.name, inode, n})
		e.names += uint64(len(c.name))
	}
	return nil
}

// known finds a file by another of its names; if there is none it is remembered.
func (e *encoder) known(c *entry) (uint32, bool) {
	if c.sub != nil || c.nlink <= 1 {
		return 0, false
	}
	key := fileKey{c.layer, c.dev, c.ino}
	n, ok := e.linked[key]
	if !ok {
		e.linked[key] = uint32(len(e.files))
	}
	return n, ok
}

// add gives a file the next number.
func (e *encoder) add(c *entry, first uint32) error {
	if uint64(len(e.files)) >= none {
		return errors.New("more files than an index can hold")
	}
	i := inode{
		ino: c.ino ^ e.b.device(c.dev)<<48, size: c.size,
		mtime: c.mtime, ctime: c.ctime, atime: c.atime,
		nlink: 1, dirent: first, blocks: uint32(c.blocks),
	}
	s := set{uid: c.uid, gid: c.gid, mode: uint16(c.mode), layer: c.layer, blksize: c.blksize, xattrs: e.str(c.xattrs)}
	switch c.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if len(c.sub.layers) == 1 { // else nobody has counted the subdirectories
			i.nlink = uint32(min(c.nlink, math.MaxUint32))
		}
		s.parts = e.str(e.parts(c.sub.parts))
	case unix.S_IFLNK:
		i.a = e.str(c.link)
	case unix.S_IFCHR, unix.S_IFBLK:
		i.a = c.rdev
	case unix.S_IFREG:
		i.a = uint32(c.blocks >> 32)
		s.parts = e.str(e.list(c.data))
	}
	i.set = e.set(s)
	e.files, e.inodes = append(e.files, c), append(e.inodes, i)
	return nil
}

// parts is the list of a directory's parts; "" where there is only its own.
func (e *encoder) parts(parts []part) string {
	if len(parts) <= 1 {
		return ""
	}
	return e.list(parts)
}

func (e *encoder) list(parts []part) string {
	var list []byte
	for _, p := range parts {
		id := uint32(none)
		if p.moved {
			id = e.str(p.path)
		}
		list = le.AppendUint16(list, p.layer)
		list = le.AppendUint16(list, 0)
		list = le.AppendUint32(list, id)
	}
	return string(list)
}

func (e *encoder) set(s set) uint32 {
	id, ok := e.setIDs[s]
	if !ok {
		id = uint32(len(e.sets))
		e.setIDs[s] = id
		e.sets = append(e.sets, s)
	}
	return id
}

func (e *encoder) str(s string) uint32 {
	id, ok := e.strIDs[s]
	if !ok {
		id = uint32(len(e.strings))
		e.strIDs[s] = id
		e.strings = append(e.strings, s)
		e.text += uint64(len(s))
	}
	return id
}

// bytes puts the file together.
func (e *encoder) bytes() ([]byte, error) {
	ids := make([]uint32, len(e.b.ids))
	for i, id := range e.b.ids {
		ids[i] = e.str(id)
	}
	c := counts{
		inodes: uint32(len(e.inodes)), slots: uint32(slotsFor(len(e.dirents))), layers: uint32(len(ids)),
		sets: uint32(len(e.sets)), dirents: uint32(len(e.dirents)), links: uint32(len(e.links)),
		strings: uint32(len(e.strings)), names: e.names, text: e.text,
	}
	size, err := c.fileSize()
	if err != nil || uint64(slotsFor(len(e.dirents))) >= none {
		return nil, fmt.Errorf("%d files: too many: %w", len(e.files), errors.Join(err, unix.EFBIG))
	}
	data := make([]byte, size)
	copy(data, magic)
	le.PutUint32(data[atVersion:], version)
	le.PutUint64(data[atSize:], size)
	c.put(data)
	s := c.cut(data)
	for i, id := range ids {
		le.PutUint32(s.layers[i*layerSize:], id)
		le.PutUint64(s.layers[i*layerSize+8:], e.b.inos[i])
	}
	e.put(&s)
	le.PutUint32(data[atChecksum:], checksum(data))
	return data, nil
}

// put writes all records but the layers.
func (e *encoder) put(s *sections) {
	for i := range e.inodes {
		e.inodes[i].put(s.inodes[i*inodeSize:])
	}
	for i := range e.sets {
		e.sets[i].put(s.sets[i*setSize:])
	}
	slices.SortFunc(e.links, func(a, b link) int {
		return cmp.Or(cmp.Compare(a.inode, b.inode), cmp.Compare(a.dirent, b.dirent))
	})
	for i, l := range e.links {
		le.PutUint32(s.links[i*linkSize:], l.inode)
		le.PutUint32(s.links[i*linkSize+4:], l.dirent)
	}
	at := 0
	for i, text := range e.strings {
		le.PutUint32(s.strings[i*stringSize:], uint32(at))
		at += copy(s.text[at:], text)
	}
	le.PutUint32(s.strings[len(e.strings)*stringSize:], uint32(at))
	at = 0
	for i, d := range e.dirents {
		rec := s.dirents[i*direntSize:]
		le.PutUint32(rec, uint32(at))
		le.PutUint32(rec[4:], d.inode)
		le.PutUint32(rec[8:], d.dir)
		at += copy(s.names[at:], d.name)
		putSlot(s.slots, d.dir, d.name, uint32(i))
	}
	le.PutUint32(s.dirents[len(e.dirents)*direntSize:], uint32(at))
}

// putSlot enters a dirent in the table, if there is room where it is looked for.
func putSlot(slots []byte, dir uint32, name string, dirent uint32) {
	h := hash(dir, name)
	n := uint32(len(slots) / slotSize)
	at := slotOf(h, n)
	for range maxProbe {
		slot := slots[int(at)*slotSize:]
		if le.Uint32(slot[4:]) == 0 {
			le.PutUint32(slot, uint32(h))
			le.PutUint32(slot[4:], dirent+1)
			return
		}
		if at++; at == n {
			at = 0
		}
	}
}

// replace writes data beside path and renames it to path. Nothing waits for the disk:
// what a power failure leaves of it has another checksum, and is made anew.
func replace(path string, data []byte) (err error) {
	name := filepath.Base(path)
	f, err := os.CreateTemp(filepath.Dir(path), "."+name+".new-*")
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error is told
		return fmt.Errorf("write index %s: %w", path, err)
	}
	return nil
}
