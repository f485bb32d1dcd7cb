package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// Owner says whose the files of [Extract] are.
type Owner int

const (
	// Own leaves them to who makes them.
	Own Owner = iota
	// Kept gives them to whom the archive says; an id that there is none of in this user
	// namespace is an error.
	Kept
	// Attempted is Kept where it is allowed, and Own elsewhere.
	Attempted
)

// ExtractOptions say how an archive comes into a directory. The zero value is fit for
// archives from strangers.
type ExtractOptions struct {
	// Under is a clean relative name that all names of the archive are put under: the
	// root of the archive gets it. "" is the directory itself.
	Under string
	Owner Owner
	// Shown says how the owners that are meant are called in the directory, which may show
	// them as those of another user namespace; nil is as they are. A negative id is none.
	Shown func(uid, gid int) (shownUID, shownGID int)
	// Trusted archives may have set-user-ID bits, capabilities and devices; of others
	// the bits and capabilities are dropped, and devices left out.
	Trusted bool
	// LeaveDirs leaves directories that exist already as they are; else they get the
	// attributes that the archive has for them.
	LeaveDirs bool
	// Follow opens (O_PATH) the directory of this clean name below the one that is filled,
	// where symbolic links are on the way. nil refuses them.
	Follow func(name string) (int, error)
}

// Extracted tells what came of an archive.
type Extracted struct {
	// Omitted are devices that were left out, or could not be made.
	Omitted int
}

// Extract fills the existing directory behind dir with the files of a tar, which may be
// compressed. It never reaches out of the directory: a name with ".." is refused, each
// parent is opened below it without following symbolic links, or by opt.Follow, and what
// is made is made by its one name there. A file takes the place of what is no directory;
// a directory in the place of something else, and the reverse, is an error, as docker has
// it. Hard links lead to what is in the directory. An archive without an end mark counts.
// After an error what was made stays.
func Extract(r io.Reader, dir int, opt ExtractOptions) (Extracted, error) {
	plain, free, err := decompress(r)
	if err != nil {
		return Extracted{}, err
	}
	defer free()
	x := &extractor{root: dir, opt: opt, tar: tar.NewReader(plain), buf: make([]byte, chunkSize)}
	err = x.run()
	x.leave()
	return x.out, err
}

// extractor is one run of Extract.
type extractor struct {
	root int
	opt  ExtractOptions
	tar  *tar.Reader
	buf  []byte
	dirs []laterDir
	out  Extracted

	parent string // the name of the directory at hand
	fd     int
	open   bool
}

// laterDir is a directory that gets its attributes when all is in it.
type laterDir struct {
	name  string
	attrs *attrs
}

func (x *extractor) run() error {
	last := ""
	for {
		hdr, err := x.tar.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return readFailure(err, last)
		}
		last = hdr.Name
		if err := x.entry(hdr); err != nil {
			return fmt.Errorf("entry %s: %w", quote(hdr.Name), err)
		}
	}
	for i := len(x.dirs) - 1; i >= 0; i-- {
		if err := x.finishDir(x.dirs[i]); err != nil {
			return fmt.Errorf("entry %s: %w", quote(x.dirs[i].name), err)
		}
	}
	return nil
}

// under is where a name of the archive is put.
func (x *extractor) under(name string) (string, error) {
	clean, err := cleanName(name)
	switch {
	case err != nil:
		return "", err
	case clean == "":
		return x.opt.Under, nil
	}
	return joinName(x.opt.Under, clean), nil
}

func (x *extractor) entry(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil // a comment
	}
	name, err := x.under(hdr.Name)
	if err != nil {
		return err
	}
	a, err := headerAttrs(hdr)
	if err != nil {
		return err
	}
	if name == "" { // the directory itself
		if hdr.Typeflag != tar.TypeDir {
			return unsafeEntry("the root of the archive is no directory")
		}
		if !x.opt.LeaveDirs {
			x.dirs = append(x.dirs, laterDir{"", a})
		}
		return nil
	}
	parent, base := splitName(name)
	fd, err := x.enter(parent)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return x.directory(fd, base, name, a)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, tar.TypeLink, tar.TypeSymlink, tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
	default:
		return unsafeEntry("unknown type %q", hdr.Typeflag)
	}
	if omit := x.device(hdr); omit {
		x.out.Omitted++
		return nil
	}
	if err := x.clear(fd, base); errors.Is(err, unix.EBUSY) && isData(hdr.Typeflag) {
		return x.refill(hdr, fd, base)
	} else if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeLink:
		return x.hardLink(hdr, fd, base)
	case tar.TypeSymlink:
		return x.symlink(hdr, fd, base, a)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		return x.node(hdr, fd, base, a)
	}
	return x.regular(hdr, fd, base, a)
}

func isData(kind byte) bool {
	return kind == tar.TypeReg || kind == tar.TypeCont || kind == tar.TypeGNUSparse
}

// refill writes the data of an entry into a file that can not be replaced, as something is
// mounted on it. All else of the file stays as it is.
func (x *extractor) refill(hdr *tar.Header, dir int, base string) error {
	fd, err := at.Open(dir, base, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err = at.Stat(fd, "", &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = unix.EBUSY
	}
	if err == nil {
		err = os.NewSyscallError("ftruncate", unix.Ftruncate(fd, 0))
	}
	if err == nil {
		err = x.payload(hdr, fd)
	}
	return errors.Join(err, os.NewSyscallError("close", unix.Close(fd)))
}

// device tells whether hdr is of a device that is left out.
func (x *extractor) device(hdr *tar.Header) bool {
	return (hdr.Typeflag == tar.TypeChar || hdr.Typeflag == tar.TypeBlock) && !x.opt.Trusted
}

// enter opens the directory of a clean name, "" for the one that is filled; those
// that are missing are made. It stays open until the next enter, or leave.
func (x *extractor) enter(name string) (int, error) {
	if x.open && x.parent == name {
		return x.fd, nil
	}
	fd, err := x.find(name)
	if err != nil {
		return -1, err
	}
	x.leave()
	x.parent, x.fd, x.open = name, fd, true
	return fd, nil
}

func (x *extractor) leave() {
	if x.open {
		x.open = false
		_ = unix.Close(x.fd) // only read
	}
}

func (x *extractor) find(name string) (int, error) {
	fd, err := at.Beneath(x.root, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		if x.opt.Follow == nil {
			return -1, unsafeEntry("a symbolic link, or a file, is in the place of a directory of %s", quote(name))
		}
		return x.opt.Follow(name)
	}
	if !errors.Is(err, unix.ENOENT) || name == "" {
		return fd, err
	}
	parent, base := splitName(name)
	above, err := x.find(parent)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(above) }() // only read
	made := at.Mkdir(above, base, 0o755)
	if made != nil && !errors.Is(made, unix.EEXIST) {
		return -1, made
	}
	dir, err := at.OpenDir(above, base)
	if err == nil && made == nil && x.opt.Shown != nil { // elsewhere it is its maker's
		uid, gid := x.opt.Shown(0, 0)
		if err = at.Chown(dir, "", uid, gid); err != nil {
			_ = unix.Close(dir) // only read
		}
	}
	return dir, err
}

// clear removes what is in the way of a file.
func (x *extractor) clear(dir int, base string) error {
	err := at.Unlink(dir, base)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EISDIR):
		return fmt.Errorf("cannot overwrite directory %q with non-directory", base)
	}
	if errors.Is(err, unix.EPERM) {
		var st unix.Stat_t
		if at.Stat(dir, base, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return fmt.Errorf("cannot overwrite directory %q with non-directory", base)
		}
	}
	return err
}

func (x *extractor) directory(dir int, base, name string, a *attrs) error {
	err := at.Mkdir(dir, base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := at.Stat(dir, base, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return fmt.Errorf("cannot overwrite non-directory %q with directory", base)
		}
		if x.opt.LeaveDirs {
			return nil
		}
		err = nil
	}
	if err == nil {
		x.dirs = append(x.dirs, laterDir{name, a})
	}
	return explainName(err)
}

// finishDir gives a directory its attributes. One that somebody has moved meanwhile
// goes without.
func (x *extractor) finishDir(d laterDir) error {
	fd, err := at.Beneath(x.root, d.name, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ELOOP) && x.opt.Follow != nil {
		parent, base := splitName(d.name)
		var above int
		if above, err = x.opt.Follow(parent); err == nil {
			fd, err = at.OpenDir(above, base)
			_ = unix.Close(above) // only read
		}
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return nil
	case err != nil:
		return err
	}
	defer func() { _ = unix.Close(fd) }() // only read
	return x.dress(fd, d.attrs)
}

// dress gives an open file its attributes: chown clears set-user-ID bits and
// capabilities, and times come last.
func (x *extractor) dress(fd int, a *attrs) error {
	if err := x.chown(fd, a); err != nil {
		return err
	}
	mode := a.mode
	if !x.opt.Trusted {
		mode &^= unix.S_ISUID | unix.S_ISGID
	}
	for attr, value := range a.xattrs {
		if !x.takes(attr) {
			continue
		}
		err := at.Setxattr(fd, "", attr, []byte(value), 0)
		if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	if err := at.Chmod(fd, "", mode); err != nil {
		return err
	}
	return at.Utimes(fd, "", a.mtime, a.mtime)
}

// takes tells whether an extended attribute is taken over.
func (x *extractor) takes(attr string) bool {
	return storable(attr) && (strings.HasPrefix(attr, "user.") || attr == "security.capability" && x.opt.Trusted)
}

// chown gives an open file, also one that is open as a path only, its owner.
func (x *extractor) chown(fd int, a *attrs) error {
	uid, gid := a.uid, a.gid
	if x.opt.Owner == Own {
		return nil
	}
	if x.opt.Shown != nil {
		if uid, gid = x.opt.Shown(uid, gid); uid < 0 || gid < 0 {
			return fmt.Errorf("there is no owner %d:%d in the container's user namespace", a.uid, a.gid)
		}
	}
	var st unix.Stat_t
	if err := at.Stat(fd, "", &st); err != nil {
		return err
	}
	if int(st.Uid) == uid && int(st.Gid) == gid {
		return nil
	}
	err := at.Chown(fd, "", uid, gid)
	refused := errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM)
	switch {
	case refused && x.opt.Owner == Attempted:
		return nil
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("there is no owner %d:%d in this user namespace: more ids in /etc/subuid and /etc/subgid give it: %w", uid, gid, err)
	}
	return err
}

func (x *extractor) regular(hdr *tar.Header, dir int, base string, a *attrs) error {
	fd, err := at.Open(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return explainName(err)
	}
	err = x.payload(hdr, fd)
	if err == nil {
		err = x.dress(fd, a)
	}
	return errors.Join(err, os.NewSyscallError("close", unix.Close(fd)))
}

// payload writes the data of an entry, without its long zeros.
func (x *extractor) payload(hdr *tar.Header, fd int) error {
	done, written, err := copyData(x.tar, fd, x.buf, plainBlock, hdr.Name)
	if err != nil {
		return err
	}
	if written < done { // it ends in a hole
		return os.NewSyscallError("ftruncate", unix.Ftruncate(fd, done))
	}
	return nil
}

func (x *extractor) symlink(hdr *tar.Header, dir int, base string, a *attrs) error {
	if hdr.Linkname == "" || strings.IndexByte(hdr.Linkname, 0) >= 0 {
		return unsafeEntry("a symbolic link to nothing")
	}
	if err := at.Symlink(hdr.Linkname, dir, base); err != nil {
		return explainName(err)
	}
	return x.dressName(dir, base, unix.S_IFLNK, a)
}

// dressName gives owner and time to what can not be opened, if it is still what was
// made.
func (x *extractor) dressName(dir int, base string, kind uint32, a *attrs) error {
	fd, err := at.Open(dir, base, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // O_PATH
	var st unix.Stat_t
	if err := at.Stat(fd, "", &st); err != nil || st.Mode&unix.S_IFMT != kind {
		return err
	}
	if err := x.chown(fd, a); err != nil {
		return err
	}
	return at.Utimes(fd, "", a.mtime, a.mtime)
}

// hardLink gives a file of the directory one more name.
func (x *extractor) hardLink(hdr *tar.Header, dir int, base string) error {
	target, err := x.under(hdr.Linkname)
	if err != nil {
		return err
	}
	parent, old := splitName(target)
	if old == "" {
		return unsafeEntry("a hard link to the directory itself")
	}
	from, err := at.Beneath(x.root, parent, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ELOOP) && x.opt.Follow != nil {
		from, err = x.opt.Follow(parent)
	}
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", quote(hdr.Linkname), err)
	}
	defer func() { _ = unix.Close(from) }() // only read
	if err := at.Link(from, old, dir, base); err != nil {
		return fmt.Errorf("hard link to %s: %w", quote(hdr.Linkname), err)
	}
	return nil
}

// node makes a FIFO or a device; a device that may not be made is left out.
func (x *extractor) node(hdr *tar.Header, dir int, base string, a *attrs) error {
	kind, dev := uint32(unix.S_IFIFO), uint64(0)
	switch hdr.Typeflag {
	case tar.TypeChar:
		kind, dev = unix.S_IFCHR, unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	case tar.TypeBlock:
		kind, dev = unix.S_IFBLK, unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	}
	err := at.Mknod(dir, base, kind|a.mode&0o777, dev)
	if errors.Is(err, unix.EPERM) && kind != unix.S_IFIFO {
		x.out.Omitted++
		return nil
	}
	if err != nil {
		return explainName(err)
	}
	return x.dressName(dir, base, kind, a)
}
