package unionfs

import (
	"errors"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/copyup"
	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// hiddenAttr tells whether the view shows an attribute as absent.
func hiddenAttr(attr string) bool {
	return whiteout.PrivateAttr(attr) || isOverrideAttr(attr)
}

// GetXAttr returns the value of an extended attribute, or its length if dest has
// none.
func (fs *FS) GetXAttr(_ <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if hiddenAttr(attr) {
		return 0, fuse.ENODATA
	}
	if attr == copyup.CapsAttr && fs.knowsNoCaps(header.NodeId) {
		return 0, fuse.ENODATA
	}
	value, err := fs.getxattr(header.NodeId, attr)
	return answer(dest, fs.shownAttr(attr, value), err)
}

// knowsNoCaps tells whether a file is known to have no capabilities, which the kernel
// asks for at the first write.
func (fs *FS) knowsNoCaps(id uint64) bool {
	r, err := fs.get(id)
	return err == nil && r.n != nil && r.n.noCaps.Load()
}

func (fs *FS) getxattr(id uint64, attr string) (value []byte, err error) {
	r, err := fs.get(id)
	if err != nil {
		return nil, err
	}
	if r.n == nil || !r.n.upper.Load() {
		return fs.tree.getxattr(r.low, attr)
	}
	err = fs.withUpper(r.n, func(dir int, name string) (err error) {
		value, err = at.Getxattr(dir, name, attr)
		return err
	})
	return value, err
}

func (fs *FS) listxattr(id uint64) (names []string, err error) {
	r, err := fs.get(id)
	if err != nil {
		return nil, err
	}
	if r.n == nil || !r.n.upper.Load() {
		return fs.tree.listxattr(r.low)
	}
	err = fs.withUpper(r.n, func(dir int, name string) (err error) {
		names, err = at.Listxattr(dir, name)
		return err
	})
	return names, err
}

// ListXAttr returns the names of all attributes but the union's own.
func (fs *FS) ListXAttr(_ <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	var list strings.Builder
	names, err := fs.listxattr(header.NodeId)
	for _, attr := range names {
		if !hiddenAttr(attr) {
			list.WriteString(attr)
			list.WriteByte(0)
		}
	}
	return answer(dest, []byte(list.String()), err)
}

func answer(dest, value []byte, err error) (uint32, fuse.Status) {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP): // that would stop the kernel from asking for any
		return 0, fuse.ENODATA
	case err != nil:
		return 0, status(err)
	case len(dest) > 0 && len(dest) < len(value):
		return uint32(len(value)), fuse.ERANGE
	}
	copy(dest, value)
	return uint32(len(value)), fuse.OK
}

// SetXAttr sets an attribute in the upper, bringing the file up first.
func (fs *FS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	if attr == OwnerAttr && fs.opt.Told {
		return fs.tellOwner(in.NodeId, string(data))
	}
	data, err := fs.diskAttr(attr, data)
	if err != nil {
		return status(err)
	}
	return fs.changeXattr(in.NodeId, attr, func(dir int, name string) error {
		if in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
			if err := killSetgid(dir, name); err != nil {
				return err
			}
		}
		return at.Setxattr(dir, name, attr, data, int(in.Flags))
	})
}

// killSetgid clears setgid because an access list, which changes the mode, is set by
// somebody outside the group of the file. The kernel knows who asks; to the file
// system of the upper it is always us (posix_acl_update_mode of Linux).
func killSetgid(dir int, name string) error {
	var st unix.Stat_t
	if err := at.Stat(dir, name, &st); err != nil || st.Mode&unix.S_ISGID == 0 {
		return err
	}
	return at.Chmod(dir, name, st.Mode&0o7777&^unix.S_ISGID)
}

// RemoveXAttr removes an attribute in the upper. A file that has it not is not
// brought up.
func (fs *FS) RemoveXAttr(_ <-chan struct{}, header *fuse.InHeader, attr string) fuse.Status {
	_, err := fs.getxattr(header.NodeId, attr)
	if errors.Is(err, unix.ENODATA) && strings.HasPrefix(attr, "system.posix_acl_") {
		return fuse.OK // no list is an empty one
	}
	if err != nil {
		return status(err)
	}
	return fs.changeXattr(header.NodeId, attr, func(dir int, name string) error {
		return at.Removexattr(dir, name, attr)
	})
}

func (fs *FS) changeXattr(id uint64, attr string, change func(dir int, name string) error) fuse.Status {
	if hiddenAttr(attr) {
		return fuse.EPERM
	}
	r, err := fs.get(id)
	if err != nil {
		return status(err)
	}
	bring := fs.upMeta
	if attr == copyup.CapsAttr { // see mayBorrow
		bring = fs.up
	}
	n, err := bring(r)
	if err != nil {
		return status(err)
	}
	if attr == copyup.CapsAttr {
		n.noCaps.Store(false)
	}
	if attr == aclDefault && n.isDir() {
		defer n.dir.handsDown()
	}
	defer n.steady()()
	return status(fs.withUpper(n, change))
}

// withFile calls fn with a directory and the name of the file in it, wherever
// the file is now.
func (fs *FS) withFile(id uint64, fn func(dir int, name string) error) error {
	r, err := fs.get(id)
	switch {
	case err != nil:
		return err
	case r.n != nil && r.n.upper.Load():
		return fs.withUpper(r.n, fn)
	case fs.tree.isCut(r.low):
		return unix.ENODATA
	}
	return fs.tree.at(r.low, fn)
}
