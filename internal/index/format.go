package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"golang.org/x/sys/unix"
)

const (
	magic   = "varveidx"
	version = 2

	headerSize = 128
	inodeSize  = 64
	slotSize   = 8
	layerSize  = 16
	setSize    = 24
	direntSize = 12
	linkSize   = 8
	stringSize = 4
	partSize   = 8

	none = math.MaxUint32 // no dirent, no string

	maxName   = 255
	maxTarget = unix.PathMax - 1
)

var (
	// ErrDamaged is the error for a file that is no index, or not all of one.
	ErrDamaged = errors.New("damaged index")
	// ErrVersion is the error for an index of another version of the format.
	ErrVersion = errors.New("index of another version")
	// ErrOtherLayers is the error for an index of other layers than those asked for.
	ErrOtherLayers = errors.New("index of other layers")
)

var le = binary.LittleEndian

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Places in the header.
const (
	atVersion  = 8
	atChecksum = 12
	atSize     = 16
	atCounts   = 24
	atNames    = 56
	atText     = 64
)

// checksum is over all but the four bytes where it is kept.
func checksum(data []byte) uint32 {
	sum := crc32.Update(0, castagnoli, data[:atChecksum])
	return crc32.Update(sum, castagnoli, data[atChecksum+4:])
}

// counts is how many records each section has; names and text are in bytes.
type counts struct {
	inodes, slots, layers, sets, dirents, links, strings uint32
	names, text                                          uint64
}

func (c *counts) numbers() []*uint32 {
	return []*uint32{&c.inodes, &c.slots, &c.layers, &c.sets, &c.dirents, &c.links, &c.strings}
}

func (c *counts) put(header []byte) {
	for i, n := range c.numbers() {
		le.PutUint32(header[atCounts+4*i:], *n)
	}
	le.PutUint64(header[atNames:], c.names)
	le.PutUint64(header[atText:], c.text)
}

func readCounts(header []byte) (c counts) {
	for i, n := range c.numbers() {
		*n = le.Uint32(header[atCounts+4*i:])
	}
	c.names, c.text = le.Uint64(header[atNames:]), le.Uint64(header[atText:])
	return c
}

// sections is the file cut into its parts.
type sections struct {
	inodes, slots, layers, sets, dirents, links, strings, text, names []byte
}

// sizes returns the bytes of each section, in their order in the file. It can
// not overflow: names and text are below 4 GiB, the rest are 32-bit counts.
func (c *counts) sizes() []uint64 {
	return []uint64{
		uint64(c.inodes) * inodeSize,
		uint64(c.slots) * slotSize,
		uint64(c.layers) * layerSize,
		uint64(c.sets) * setSize,
		(uint64(c.dirents) + 1) * direntSize,
		uint64(c.links) * linkSize,
		(uint64(c.strings) + 1) * stringSize,
		c.text,
		c.names,
	}
}

// fileSize returns how long the file is; an error if that can not be.
func (c *counts) fileSize() (uint64, error) {
	if c.names > math.MaxUint32 || c.text > math.MaxUint32 || c.dirents == none || c.strings == none {
		return 0, errors.New("more names than an index can hold")
	}
	size := uint64(headerSize)
	for _, n := range c.sizes() {
		size += n
	}
	if size > math.MaxInt {
		return 0, errors.New("larger than memory")
	}
	return size, nil
}

// cut cuts data, which is as long as fileSize says, into its sections.
func (c *counts) cut(data []byte) (s sections) {
	rest := data[headerSize:]
	into := []*[]byte{&s.inodes, &s.slots, &s.layers, &s.sets, &s.dirents, &s.links, &s.strings, &s.text, &s.names}
	for i, n := range c.sizes() {
		*into[i] = rest[:n:n]
		rest = rest[n:]
	}
	return s
}

// inode is one record of the inodes. The file has it as it is written here.
type inode struct {
	ino, size           uint64
	mtime, ctime, atime uint64 // packed
	set, nlink          uint32
	dirent              uint32 // its first name; none for the root
	blocks              uint32 // of 512 bytes, lower half
	a, b                uint32
}

func (i *inode) put(rec []byte) {
	for k, v := range []uint64{i.ino, i.size, i.mtime, i.ctime, i.atime} {
		le.PutUint64(rec[8*k:], v)
	}
	for k, v := range []uint32{i.set, i.nlink, i.dirent, i.blocks, i.a, i.b} {
		le.PutUint32(rec[40+4*k:], v)
	}
}

func readInode(rec []byte) inode {
	_ = rec[inodeSize-1]
	return inode{
		ino: le.Uint64(rec), size: le.Uint64(rec[8:]),
		mtime: le.Uint64(rec[16:]), ctime: le.Uint64(rec[24:]), atime: le.Uint64(rec[32:]),
		set: le.Uint32(rec[40:]), nlink: le.Uint32(rec[44:]), dirent: le.Uint32(rec[48:]),
		blocks: le.Uint32(rec[52:]), a: le.Uint32(rec[56:]), b: le.Uint32(rec[60:]),
	}
}

// set is what many inodes have in common.
type set struct {
	uid, gid uint32
	mode     uint16
	layer    uint16
	xattrs   uint32 // string with a list of attributes, "" for none
	parts    uint32 // string with a list of parts, "" where there is only layer
	blksize  uint32
}

func (s *set) put(rec []byte) {
	le.PutUint32(rec, s.uid)
	le.PutUint32(rec[4:], s.gid)
	le.PutUint16(rec[8:], s.mode)
	le.PutUint16(rec[10:], s.layer)
	le.PutUint32(rec[12:], s.xattrs)
	le.PutUint32(rec[16:], s.parts)
	le.PutUint32(rec[20:], s.blksize)
}

func readSet(rec []byte) set {
	_ = rec[setSize-1]
	return set{
		uid: le.Uint32(rec), gid: le.Uint32(rec[4:]),
		mode: le.Uint16(rec[8:]), layer: le.Uint16(rec[10:]),
		xattrs: le.Uint32(rec[12:]), parts: le.Uint32(rec[16:]), blksize: le.Uint32(rec[20:]),
	}
}

// kind is the S_IFMT part of the mode.
func (s *set) kind() uint32 { return uint32(s.mode) & unix.S_IFMT }

// Seconds of a packed time begin in 1901 and have 34 bits.
const (
	firstSecond = math.MinInt32
	lastSecond  = firstSecond + 1<<34 - 1
)

func packTime(t unix.Timespec) uint64 {
	sec, nsec := int64(t.Sec), uint64(t.Nsec) //nolint:unconvert // 32 bits elsewhere
	switch {
	case sec < firstSecond:
		sec, nsec = firstSecond, 0
	case sec > lastSecond:
		sec, nsec = lastSecond, 0
	}
	return uint64(sec-firstSecond)<<30 | nsec
}

func unpackTime(v uint64) (t unix.Timespec) {
	setNumber(&t.Sec, int64(v>>30)+firstSecond)
	setNumber(&t.Nsec, int64(v&(1<<30-1)))
	return t
}

// setNumber sets a number whose size differs between architectures.
func setNumber[T int32 | int64 | uint32 | uint64, V int64 | uint64](field *T, v V) { *field = T(v) }

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}
