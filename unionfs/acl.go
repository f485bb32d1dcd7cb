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

// aclAccess is the attribute that holds a file's own list.
const aclAccess = "system.posix_acl_access"

// inheritLocked gives f what its directory hands down: the group, and to a directory
// the bit, of a setgid one; and it takes the umask from the mode, or notes the default
// list that takes its place. That most directories hand down nothing is asked for once.
// Preconditions: parent is a directory of the upper, open as dir, and parent.dir.mu is
// held.
func (fs *FS) inheritLocked(parent *node, dir int, f *newFile) error {
	if f.of != nil {
		return nil
	}
	if !parent.dir.plain {
		group, err := fs.inheritGroup(dir, f)
		if err != nil {
			return err
		}
		if f.acl, err = fs.defaultACL(dir); err != nil {
			return err
		}
		parent.dir.plain = !group && f.acl == nil
	}
	if f.kind == unix.S_IFLNK {
		f.acl = nil
	}
	if f.acl == nil {
		f.mode &^= f.umask
	}
	return nil
}

// inheritGroup tells whether the directory is setgid.
func (fs *FS) inheritGroup(dir int, f *newFile) (bool, error) {
	var st unix.Stat_t
	if err := fs.opt.Override.statHere(dir, "", &st); err != nil || st.Mode&unix.S_ISGID == 0 {
		return false, err
	}
	f.gid = st.Gid
	if f.kind == unix.S_IFDIR {
		f.mode |= unix.S_ISGID
	}
	return true, nil
}

// defaultACL is the default list of a directory; nil if it has none that counts.
func (fs *FS) defaultACL(dir int) ([]byte, error) {
	if fs.opt.Override != NoOverride {
		return nil, nil
	}
	acl, err := at.Getxattr(dir, "", aclDefault)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	return acl, err
}

// handsDown notes that a directory may have got something to hand down.
func (d *upperDir) handsDown() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plain = false
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
