package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/copyup"
	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// PackOptions say how an upper becomes a layer. The zero value is right.
type PackOptions struct {
	// Whiteout is the dialect for whiteouts on disk. Auto takes the one that the
	// file system of the layer directory can hold.
	Whiteout whiteout.Dialect
	// Move takes the regular files away from the upper instead of copying them: it is
	// a copy ([Snapshot]) on the file system of the layer, which nobody needs any more.
	Move bool
	// Below, if not nil, looks up what the layers below the upper have at a clean
	// path, without following links; false is nothing. A file of the upper that is
	// there already, with the same content, owner, mode, time and attributes, is left
	// out, and so is a directory that differs in nothing and of which nothing is left.
	// Files with several names stay, for the names belong together.
	Below func(path string) (File, bool, error)
	// Placeholder, if not nil, tells of what Below has nothing for whether it is left out
	// as well; a directory comes if there is something in it that does.
	Placeholder func(path string, st *unix.Stat_t) bool
}

// PackUpper makes a layer of the upper directory at the path upper, and only of
// it: diff/ and tar-split.gz in the existing directory dir get a copy of its
// files, and its tar, which is not stored, gives the digest.
//
// The tar is canonical, so that the same upper always gives the same DiffID:
// names in the order of their bytes, directories before what is in them, PAX with
// nanoseconds, no user names, no access times, whiteouts in the OCI dialect with
// mode 0600 and time 0, no entry for the root itself. A name that the upper both
// has and hides is only in the tar, and opaque if it is a directory. Sockets are
// left out, as they mean nothing without the process that made them. What is
// hashed is what was stored, also if the upper changes meanwhile.
//
// A file of which the upper has only the metadata (overlayfs' metacopy) is an error,
// for its data is in a layer that is not looked at.
//
// An empty upper gives an empty layer. The layer is not durable before [SyncLayer]. After
// an error what was made in dir is the caller's to remove.
func PackUpper(upper, dir string, opt PackOptions) (Unpacked, error) {
	root, err := at.OpenRoot(upper)
	if err != nil {
		return Unpacked{}, fmt.Errorf("read upper: %w", err)
	}
	defer func() { _ = unix.Close(root) }() // read only
	layer, err := newLayer(dir, opt.Whiteout)
	if err != nil {
		return Unpacked{}, err
	}
	p := &packer{layer: layer, upper: root, move: opt.Move, below: opt.Below, placeholder: opt.Placeholder, sum: newHasher(), links: map[inode]string{}, buf: make([]byte, chunkSize)}
	p.tar = tar.NewWriter(io.MultiWriter(p.sum, layer.split))
	err = p.run()
	sum := p.sum.Sum()
	if err != nil {
		return Unpacked{}, errors.Join(err, layer.close())
	}
	p.out.DiffID = digest.NewDigestFromBytes(digest.SHA256, sum)
	p.out.TarSize = layer.split.total
	return p.out, layer.finish()
}

type inode struct{ dev, ino uint64 }

// packer is one run of PackUpper.
type packer struct {
	*layer
	upper int
	move  bool
	below func(path string) (File, bool, error) // nil: all is packed
	// placeholder is Placeholder of PackOptions
	placeholder func(path string, st *unix.Stat_t) bool
	sum         *hasher
	tar         *tar.Writer
	links       map[inode]string // files with several names, and the first of them
	buf         []byte
	out         Unpacked
}

func (p *packer) run() error {
	a, err := p.owners.attrsOf(p.upper, "", unix.S_IFDIR)
	if err != nil {
		return fmt.Errorf("read upper: %w", err)
	}
	w := walk{p: p, src: -1, dst: -1}
	if err := w.all(); err != nil {
		return err
	}
	if err := p.owners.dress(p.dir, diffName, unix.S_IFDIR, a); err != nil {
		return err
	}
	return p.tar.Close()
}

// header begins the header of a file.
func (a *attrs) header(name string) *tar.Header {
	h := &tar.Header{
		Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: name, Mode: int64(a.mode), Uid: a.uid, Gid: a.gid,
		ModTime: time.Unix(a.mtime.Unix()),
	}
	for attr, value := range a.xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrKey+encodeAttr(attr)] = value
	}
	return h
}

// write writes a header; path is the entry's place below diff/.
func (p *packer) write(h *tar.Header) error {
	p.out.Entries++
	return p.tar.WriteHeader(h)
}

// mark writes a whiteout, or the mark of an opaque directory.
func (p *packer) mark(name string) error {
	h := &tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: name, Mode: 0o600, ModTime: time.Unix(0, 0)}
	return errors.Join(p.write(h), p.split.nothing(name))
}

// file copies what is no directory from src to dst and puts it into the tar.
func (p *packer) file(src, dst int, path, base string) error {
	var st unix.Stat_t
	if err := at.Stat(src, base, &st); err != nil {
		return err
	}
	real := st.Mode & unix.S_IFMT
	a, err := p.owners.attrsOf(src, base, real)
	if err != nil {
		return err
	}
	kind, rdev := a.kind(&st)
	if kind == unix.S_IFSOCK {
		return nil
	}
	h := a.header(path)
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, seen := p.links[id]; seen {
			return p.link(first, dst, base, h)
		}
		p.links[id] = path
	}
	switch kind {
	case unix.S_IFREG:
		err = p.regular(src, dst, base, h)
	case unix.S_IFLNK:
		real, err = p.symlink(src, dst, base, h, a)
	default:
		describeNode(h, kind, rdev)
		if real, err = p.owners.makeNode(dst, base, kind, rdev, a); err == nil {
			err = p.bare(h)
		}
	}
	if err != nil {
		return err
	}
	return p.owners.dress(dst, base, real, a)
}

// directory makes a directory in dst, private until it is full, and puts it into the
// tar.
func (p *packer) directory(dst int, f *frame) error {
	_, base := splitName(f.path)
	if err := at.Mkdir(dst, base, 0o700); err != nil {
		return err
	}
	h := f.attrs.header(f.path + "/")
	h.Typeflag = tar.TypeDir
	return errors.Join(p.write(h), p.split.nothing(f.path))
}

// link gives the copy of first one more name. Its entry says owner, mode, times and
// attributes once more: docker and podman give a file what the last of its entries says.
func (p *packer) link(first string, dst int, base string, h *tar.Header) error {
	if err := linkWithin(p.diff, first, dst, base); err != nil {
		return err
	}
	path := h.Name
	h.Typeflag, h.Linkname = tar.TypeLink, first
	return errors.Join(p.write(h), p.split.nothing(path))
}

func (p *packer) symlink(src, dst int, base string, h *tar.Header, a *attrs) (real uint32, err error) {
	target, err := a.readlink(src, base)
	if err != nil {
		return 0, err
	}
	if real, err = p.owners.makeLink(dst, base, target, a); err != nil {
		return 0, err
	}
	h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, target, linkMode
	return real, p.bare(h)
}

// bare writes the header of a file without data.
func (p *packer) bare(h *tar.Header) error {
	return errors.Join(p.write(h), p.split.nothing(h.Name))
}

// describeNode says in the header what device or FIFO it is.
func describeNode(h *tar.Header, kind uint32, rdev uint64) {
	switch kind {
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	default:
		h.Typeflag = tar.TypeFifo
		return
	}
	h.Devmajor, h.Devminor = int64(unix.Major(rdev)), int64(unix.Minor(rdev))
}

func (p *packer) regular(src, dst int, base string, h *tar.Header) error {
	out, err := p.bring(src, dst, base)
	if err != nil {
		return err
	}
	return errors.Join(p.payload(out, h), closeWritten(out))
}

// bring copies or moves a regular file, and opens it.
func (p *packer) bring(src, dst int, base string) (int, error) {
	if p.move {
		if err := at.Rename(src, base, dst, base, unix.RENAME_NOREPLACE); err != nil {
			return -1, err
		}
		return at.Open(dst, base, unix.O_RDONLY|unix.O_NONBLOCK, 0) // Snapshot looked at it
	}
	in, err := at.Open(src, base, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(in) }() // read only
	if err := hasData(in); err != nil {
		return -1, err
	}
	out, err := at.Open(dst, base, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return -1, err
	}
	if err := copyup.Data(in, out); err != nil {
		return -1, errors.Join(err, closeWritten(out))
	}
	return out, nil
}

// hasData refuses a file whose data is in a layer below the upper, for it would be
// packed as zeros.
func hasData(fd int) error {
	meta, err := whiteout.IsMetacopy(fd)
	if meta {
		err = errors.New("the upper has only its metadata, and the data is in a layer below (metacopy): mount the upper over its layers and rename the file there and back, which brings its data up")
	}
	return err
}

// payload puts the copy, not the original, into the tar: the two could differ.
func (p *packer) payload(fd int, h *tar.Header) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	h.Size = st.Size
	p.out.Size += st.Size
	beginWriting(fd, st.Size) // while it is hashed
	if err := p.write(h); err != nil {
		return err
	}
	if h.Size == 0 {
		return p.split.nothing(h.Name)
	}
	p.split.beginPayload()
	err := p.stream(fd, h.Size)
	return errors.Join(err, p.split.endPayload(h.Name))
}

func (p *packer) stream(fd int, size int64) error {
	for off := int64(0); off < size; {
		n, err := unix.Pread(fd, p.buf, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		if _, err := p.tar.Write(p.buf[:n]); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}
