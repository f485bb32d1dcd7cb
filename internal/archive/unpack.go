package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// Unpacked tells what a layer directory was filled with.
type Unpacked struct {
	// DiffID is the sha256 of the uncompressed tar.
	DiffID digest.Digest
	// Size is the sum of the sizes of the regular files, in bytes, holes included.
	Size int64
	// TarSize is the length of the uncompressed tar in bytes.
	TarSize int64
	// Entries is the number of entries of the tar, whiteouts included.
	Entries int
}

// UnpackOptions say how much an archive may ask for. The zero value is fit for
// archives from strangers.
type UnpackOptions struct {
	// MaxBytes bounds the uncompressed tar, and besides the sum of the sizes that
	// its files have with their holes. 0 is 256 GiB.
	MaxBytes int64
	// MaxEntries bounds the number of entries. 0 is 10 million.
	MaxEntries int
	// Whiteout is the dialect for whiteouts on disk. Auto takes the one that the
	// file system can hold.
	Whiteout whiteout.Dialect
	// AllowNoEnd accepts an archive without the two zero blocks at its end. Some
	// builders write such layers; it is for input whose digest is checked, since
	// otherwise they can not be told from one that was cut short.
	AllowNoEnd bool
}

func (o UnpackOptions) withDefaults() UnpackOptions {
	if o.MaxBytes == 0 {
		o.MaxBytes = 256 << 30
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = 10_000_000
	}
	return o
}

// Unpack reads one layer from r, a tar or a gzip or zstd of one, and makes diff/
// and tar-split.gz in the existing directory dir, where neither may be yet. r is
// read to its end, once, and is no longer read when Unpack returns. After an
// error what was made is the caller's to remove. The errors wrap ErrNotTar,
// ErrTruncated, ErrTooBig, ErrUnsafe or that of a system call, and name the entry.
// Several may run at once in different directories. The layer is not durable before
// [SyncLayer].
func Unpack(r io.Reader, dir string, opt UnpackOptions) (Unpacked, error) {
	plain, free, err := decompress(r)
	if err != nil {
		return Unpacked{}, err
	}
	defer free()
	layer, err := newLayer(dir, opt.Whiteout)
	if err != nil {
		return Unpacked{}, err
	}
	opt = opt.withDefaults()
	u := newUnpacker(plain, layer, opt)
	defer u.close()
	if err := u.run(); err != nil {
		return Unpacked{}, errors.Join(err, layer.close())
	}
	u.out.DiffID = digest.NewDigestFromBytes(digest.SHA256, u.in.Sum())
	u.out.TarSize = layer.split.total
	return u.out, layer.finish()
}

// layer is a layer directory while it is being filled.
type layer struct {
	dir     int // the layer directory
	diff    int
	dialect whiteout.Dialect
	split   *splitter
	owners  owners
}

// newLayer makes diff/ and tar-split.gz.
func newLayer(path string, dialect whiteout.Dialect) (*layer, error) {
	l := &layer{dir: -1, diff: -1, dialect: dialect, owners: newOwners()}
	if err := l.open(path); err != nil {
		return nil, errors.Join(fmt.Errorf("make layer directory: %w", err), l.close())
	}
	return l, nil
}

func (l *layer) open(path string) (err error) {
	if l.dir, err = at.OpenRoot(path); err != nil {
		return err
	}
	if l.dialect == whiteout.Auto {
		if l.dialect, err = whiteout.Probe(l.dir); err != nil {
			return err
		}
	}
	if err = at.Mkdir(l.dir, diffName, 0o700); err != nil {
		return err
	}
	if l.diff, err = at.OpenDir(l.dir, diffName); err != nil {
		return err
	}
	fd, err := at.Open(l.dir, indexName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	l.split, err = newSplitter(os.NewFile(uintptr(fd), indexName))
	return err
}

// finish completes tar-split.gz and closes the directory.
func (l *layer) finish() error { return errors.Join(l.split.finish(), l.close()) }

// close frees the descriptors.
func (l *layer) close() error {
	for _, fd := range []int{l.dir, l.diff} {
		if fd >= 0 {
			_ = unix.Close(fd) // directories, read only
		}
	}
	l.dir, l.diff = -1, -1
	if l.split == nil {
		return nil
	}
	return l.split.file.Close()
}

// unpacker is one run of Unpack.
type unpacker struct {
	*layer
	opt    UnpackOptions
	in     *stream
	tar    *tar.Reader
	places *places
	keeper *keeper
	dirs   dirs
	buf    []byte
	last   string // the name of the last entry, for errors
	sizes  int64  // of all files so far, holes included
	out    Unpacked
}

func newUnpacker(r io.Reader, l *layer, opt UnpackOptions) *unpacker {
	u := &unpacker{layer: l, opt: opt, in: newStream(r, opt.MaxBytes), keeper: newKeeper(l.dir), buf: make([]byte, chunkSize)}
	u.tar = tar.NewReader(io.TeeReader(u.in, l.split))
	u.dirs = dirs{list: map[string]*attrs{}}
	u.places = newPlaces(l.diff, l.owners, u.madeDir)
	return u
}

func (u *unpacker) close() {
	u.in.Close()
	u.places.close()
}

func (u *unpacker) run() (err error) {
	defer func() { err = errors.Join(err, u.keeper.close()) }()
	for {
		hdr, err := u.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := u.entry(hdr); err != nil {
			return fmt.Errorf("entry %s: %w", quote(hdr.Name), err)
		}
	}
	if err := u.drain(); err != nil {
		return err
	}
	return u.finishDirs()
}

// next reads the next header, and at the end checks that there is one.
func (u *unpacker) next() (*tar.Header, error) {
	before := u.split.total
	hdr, err := u.tar.Next()
	if u.split.err != nil {
		return nil, u.split.err
	}
	if err == io.EOF {
		return nil, u.checkEnd(before)
	}
	if err != nil {
		return nil, readFailure(err, u.last)
	}
	if u.out.Entries++; u.out.Entries > u.opt.MaxEntries {
		return nil, fmt.Errorf("%w: more than %d entries", ErrTooBig, u.opt.MaxEntries)
	}
	u.last = hdr.Name
	return hdr, nil
}

// checkEnd returns io.EOF if the archive ends as it should, with a block of zeros:
// archive/tar also takes the end of the input for one, between two entries and in
// the padding.
func (u *unpacker) checkEnd(before int64) error {
	padding := -before & 511
	switch {
	case u.split.total == 0:
		return fmt.Errorf("%w: the input is empty", ErrNotTar)
	case u.split.total-before == padding && u.opt.AllowNoEnd:
		return io.EOF
	case u.split.total-before < padding+512, u.split.zeros < 512:
		return fmt.Errorf("%w after the entry %s: its end mark is missing", ErrTruncated, quote(u.last))
	}
	return io.EOF
}

// drain takes what follows the end mark, which is part of the layer's digest.
func (u *unpacker) drain() error {
	for {
		n, err := u.in.Read(u.buf)
		if _, werr := u.split.Write(u.buf[:n]); werr != nil {
			return werr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
