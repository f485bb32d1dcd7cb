package unionfs

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// POSIX access lists are attributes of the files of the upper, and the kernel
// checks them (FUSE_POSIX_ACL). What is left to us is their inheritance: a file that
// is made where there is a default list takes its mode from that list and not from
// the umask, acl(5). The file system of the upper sees to it, if the file is made
// in that directory, or in one with the same list.

// aclDefault is the attribute that holds the list that new files inherit.
const aclDefault = "system.posix_acl_default"

// mask takes the umask from the mode of a new file, or notes the list that takes
// its place.
// Preconditions: parent is a directory of the upper, open as dir.
func (fs *FS) mask(parent *node, dir int, f *newFile) error {
	if f.kind == unix.S_IFLNK || f.of != nil {
		return nil
	}
	if fs.opt.Override == NoOverride && !parent.dir.noACL.Load() {
		acl, err := at.Getxattr(dir, "", aclDefault)
		switch {
		case err == nil:
			f.acl = acl
			return nil
		case !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP):
			return err
		}
		parent.dir.noACL.Store(true)
	}
	f.mode &^= f.umask
	return nil
}

// shelter returns a directory in the work directory to make f in: the work
// directory itself, or one that hands down the list that f inherits. leave closes
// and removes it.
func (fs *FS) shelter(f *newFile) (dir int, leave func() error, err error) {
	if f.acl == nil {
		return fs.work, func() error { return nil }, nil
	}
	name := fs.temp()
	if err := at.Mkdir(fs.work, name, 0o700); err != nil {
		return -1, nil, err
	}
	leave = func() error { return at.RemoveAll(fs.work, name) }
	if dir, err = at.OpenDir(fs.work, name); err != nil {
		return -1, nil, errors.Join(err, leave())
	}
	leave = func() error {
		_ = unix.Close(dir) // read only
		return at.RemoveAll(fs.work, name)
	}
	if err := at.Setxattr(dir, "", aclDefault, f.acl, 0); err != nil {
		return -1, nil, errors.Join(err, leave())
	}
	return dir, leave, nil
}

// ownWithACL gives a file that has inherited its mode the bits that no list holds.
func ownWithACL(dir int, name string, f *newFile) error {
	if f.mode&0o7000 == 0 {
		return nil
	}
	var st unix.Stat_t
	if err := at.Stat(dir, name, &st); err != nil {
		return err
	}
	return at.Chmod(dir, name, st.Mode&0o777|f.mode&0o7000)
}
