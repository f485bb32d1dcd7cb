package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// target is where an entry goes.
type target struct {
	parent place
	base   string
	path   string // below diff/, without links
}

// entry unpacks one entry. A payload that is not read here ends up among the raw
// bytes of the tar-split, so nothing of any entry is lost.
func (u *unpacker) entry(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return u.split.nothing("") // a comment, as git archive writes it
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	parent, base := splitName(name)
	if mark, err := parentMark(parent); err != nil || mark == whiteout.Meta {
		return errors.Join(err, u.split.nothing(name))
	}
	mark, hidden, err := whiteout.Parse(base)
	switch {
	case err != nil:
		return unsafeEntry("%v", err)
	case mark != whiteout.Plain:
		return errors.Join(u.whiteout(mark, parent, hidden), u.split.nothing(name))
	}
	a, err := headerAttrs(hdr)
	if err != nil {
		return err
	}
	if name == "" {
		return u.rootEntry(hdr, a)
	}
	if hdr.Typeflag == tar.TypeLink {
		return u.hardLink(hdr, parent, base)
	}
	where, err := u.places.find(parent, true)
	if err != nil {
		return err
	}
	return u.make(hdr, target{where, base, joinName(where.path, base)}, a)
}

// headerAttrs reads what a header says about its file.
func headerAttrs(hdr *tar.Header) (*attrs, error) {
	if hdr.Uid < 0 || hdr.Gid < 0 || hdr.Uid >= math.MaxUint32 || hdr.Gid >= math.MaxUint32 {
		return nil, unsafeEntry("there is no owner %d:%d", hdr.Uid, hdr.Gid)
	}
	a := &attrs{uid: hdr.Uid, gid: hdr.Gid, mode: uint32(hdr.Mode) & 0o7777}
	a.mtime = unix.Timespec{Sec: hdr.ModTime.Unix(), Nsec: int64(hdr.ModTime.Nanosecond())}
	for key, value := range hdr.PAXRecords {
		if attr, ok := strings.CutPrefix(key, xattrKey); ok {
			if a.xattrs == nil {
				a.xattrs = map[string]string{}
			}
			a.xattrs[decodeAttr(attr)] = value
		}
	}
	return a, nil
}

// rootEntry takes "./", which gives the root of the layer its attributes.
func (u *unpacker) rootEntry(hdr *tar.Header, a *attrs) error {
	if hdr.Typeflag != tar.TypeDir {
		return unsafeEntry("the root of a layer must be a directory")
	}
	return errors.Join(u.addDir("", a), u.split.nothing(""))
}

func (u *unpacker) make(hdr *tar.Header, to target, a *attrs) error {
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return u.regular(hdr, to, a)
	case tar.TypeDir:
		return errors.Join(u.directory(to, a), u.split.nothing(to.path))
	case tar.TypeSymlink:
		return errors.Join(u.symlink(hdr, to, a), u.split.nothing(to.path))
	case tar.TypeChar, tar.TypeBlock:
		return errors.Join(u.device(hdr, to, a), u.split.nothing(to.path))
	case tar.TypeFifo:
		return errors.Join(u.node(to, unix.S_IFIFO, 0, a), u.split.nothing(to.path))
	}
	return unsafeEntry("unknown type %q", hdr.Typeflag)
}

// put runs make, which must not replace anything. What is in the way is moved
// out of it first: the later entry of an archive is the one that counts.
func (u *unpacker) put(to target, make func() error) error {
	err := make()
	if !errors.Is(err, unix.EEXIST) {
		return explainName(err)
	}
	if err := u.clear(to); err != nil {
		return err
	}
	return explainName(make())
}

// explainName turns ENAMETOOLONG into a sentence.
func explainName(err error) error {
	if errors.Is(err, unix.ENAMETOOLONG) {
		return fmt.Errorf("a name or target is longer than the file system of the store allows: %w", err)
	}
	return err
}

// clear moves what is at to away. Payloads are kept, since the layer's tar has
// them.
func (u *unpacker) clear(to target) error {
	var st unix.Stat_t
	if err := at.Stat(to.parent.fd, to.base, &st); err != nil {
		return err
	}
	u.places.forget()
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFDIR, kind == unix.S_IFREG && st.Size > 0:
		return u.keeper.keep(to.parent.fd, to.base, to.path, u.split.position)
	}
	return at.Unlink(to.parent.fd, to.base)
}

func (u *unpacker) regular(hdr *tar.Header, to target, a *attrs) error {
	if u.sizes += hdr.Size; hdr.Size > u.opt.MaxBytes || u.sizes > u.opt.MaxBytes {
		return fmt.Errorf("%w: the files are larger than %d bytes", ErrTooBig, u.opt.MaxBytes)
	}
	fd := -1
	err := u.put(to, func() (err error) {
		fd, err = at.Open(to.parent.fd, to.base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = u.payload(hdr, fd, to.path)
	beginWriting(fd, hdr.Size)
	if cerr := unix.Close(fd); err == nil {
		err = os.NewSyscallError("close", cerr)
	}
	if err != nil {
		return err
	}
	u.out.Size += hdr.Size
	return u.owners.dress(to.parent.fd, to.base, unix.S_IFREG, a)
}

// payload writes the data of an entry into fd. Of a sparse file the tar holds
// something else than the file does, so there the raw bytes go to the tar-split.
func (u *unpacker) payload(hdr *tar.Header, fd int, path string) error {
	sparse := isSparse(hdr)
	if hdr.Size == 0 || sparse {
		if err := u.copy(fd, hdr.Size, sparse); err != nil {
			return err
		}
		return u.split.nothing(path)
	}
	u.split.beginPayload()
	err := u.copy(fd, hdr.Size, false)
	return errors.Join(err, u.split.endPayload(path))
}

// isSparse tells whether the tar has a map of the file's holes instead of them.
func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// Blocks of zeros are left out of files. In a plain file, which may have had holes
// before a tar wrote them out, they are long, so that it is not cut into many extents.
const (
	sparseBlock = 4 << 10
	plainBlock  = 64 << 10
)

var zeros [plainBlock]byte

func (u *unpacker) copy(fd int, size int64, sparse bool) error {
	block := plainBlock
	if sparse {
		block = sparseBlock
	}
	done, written, err := copyData(u.tar, fd, u.buf, block, u.last)
	if err != nil {
		return err
	}
	if done != size {
		return fmt.Errorf("%w: it has %d bytes and says %d", ErrNotTar, done, size)
	}
	if written < size { // it ends in a hole
		return os.NewSyscallError("ftruncate", unix.Ftruncate(fd, size))
	}
	return nil
}

// copyData writes what r has to an empty file, through buf, without its blocks of zeros.
// It returns how much that is, and where the last byte that it wrote ends. name is that
// of the entry.
func copyData(r io.Reader, fd int, buf []byte, block int, name string) (done, written int64, err error) {
	for {
		n, err := r.Read(buf)
		end, werr := writeAt(fd, buf[:n], done, block)
		if werr != nil {
			return done, written, werr
		}
		done, written = done+int64(n), max(written, end)
		if err == io.EOF {
			return done, written, nil
		}
		if err != nil {
			return done, written, readFailure(err, name)
		}
	}
}

// writeAt writes p at off without its blocks of zeros, and returns where the last
// byte that it wrote ends, 0 if there is none.
func writeAt(fd int, p []byte, off int64, block int) (end int64, err error) {
	for len(p) > 0 {
		n := untilZeros(p, off, block)
		if n == 0 {
			n = untilBlock(p, off, block)
		} else {
			n, err = unix.Pwrite(fd, p[:n], off)
			if err != nil && err != unix.EINTR {
				return end, os.NewSyscallError("write", err)
			}
			n = max(n, 0)
			end = off + int64(n)
		}
		p, off = p[n:], off+int64(n)
	}
	return end, nil
}

// untilZeros is how much of p, which is at off, comes before a block of zeros, or
// before what p has of one at its end.
func untilZeros(p []byte, off int64, block int) int {
	for n := 0; n < len(p); {
		piece := p[n:]
		piece = piece[:untilBlock(piece, off+int64(n), block)]
		if bytes.Equal(piece, zeros[:len(piece)]) {
			return n
		}
		n += len(piece)
	}
	return len(p)
}

// untilBlock is how much of p, which is at off, comes before the next block.
func untilBlock(p []byte, off int64, block int) int {
	return min(len(p), block-int(off%int64(block)))
}

func (u *unpacker) symlink(hdr *tar.Header, to target, a *attrs) error {
	if hdr.Linkname == "" || strings.IndexByte(hdr.Linkname, 0) >= 0 {
		return unsafeEntry("a symbolic link to nothing")
	}
	return u.makeDressed(to, a, func() (uint32, error) {
		return u.owners.makeLink(to.parent.fd, to.base, hdr.Linkname, a)
	})
}

// device makes a device, or where that is not allowed what stands for it.
func (u *unpacker) device(hdr *tar.Header, to target, a *attrs) error {
	kind := uint32(unix.S_IFCHR)
	if hdr.Typeflag == tar.TypeBlock {
		kind = unix.S_IFBLK
	}
	if hdr.Devmajor < 0 || hdr.Devminor < 0 || hdr.Devmajor > math.MaxUint32 || hdr.Devminor > math.MaxUint32 {
		return unsafeEntry("there is no device %d:%d", hdr.Devmajor, hdr.Devminor)
	}
	return u.node(to, kind, unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)), a)
}

func (u *unpacker) node(to target, kind uint32, dev uint64, a *attrs) error {
	return u.makeDressed(to, a, func() (uint32, error) {
		return u.owners.makeNode(to.parent.fd, to.base, kind, dev, a)
	})
}

// makeDressed is put for what make returns the type of, and gives it its attributes.
func (u *unpacker) makeDressed(to target, a *attrs, make func() (uint32, error)) error {
	var kind uint32
	err := u.put(to, func() (err error) {
		kind, err = make()
		return err
	})
	if err != nil {
		return err
	}
	return u.owners.dress(to.parent.fd, to.base, kind, a)
}

// xattrKey begins the PAX records of extended attributes.
const xattrKey = "SCHILY.xattr."

// decodeAttr undoes what GNU tar does to the two characters of an attribute's
// name that a PAX key can not hold.
func decodeAttr(key string) string {
	if !strings.Contains(key, "%") {
		return key
	}
	return strings.NewReplacer("%3D", "=", "%25", "%").Replace(key)
}

func encodeAttr(attr string) string {
	if !strings.ContainsAny(attr, "%=") {
		return attr
	}
	return strings.NewReplacer("=", "%3D", "%", "%25").Replace(attr)
}
