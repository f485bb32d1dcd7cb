package unionfs

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/copyup"
)

// Two kinds of attributes have ids in them: access lists, and capabilities that hold in one
// user namespace only. Where owners are mapped (Options.UIDs) these are, too.

// Of struct posix_acl_xattr_header and _entry (linux/posix_acl_xattr.h).
const (
	aclHeader = 4
	aclEntry  = 8
	aclUser   = 0x02
	aclGroup  = 0x08
)

// Of struct vfs_ns_cap_data (linux/capability.h): revision 3 is revision 2 with the root of
// a namespace behind it.
const (
	capsSize2, capsSize3 = 20, 24
	capsRevision         = 0xff000000
	caps2                = 0x02000000
)

// mapsAttr tells whether the value of an attribute has ids that are mapped.
func (fs *FS) mapsAttr(attr string) bool {
	return len(fs.opt.UIDs)+len(fs.opt.GIDs) > 0 && (attr == aclAccess || attr == aclDefault || attr == copyup.CapsAttr)
}

// shownAttr is the value of an attribute as programs see it. Whom an access list names and
// the view does not show is the overflow id.
func (fs *FS) shownAttr(attr string, value []byte) []byte {
	if !fs.mapsAttr(attr) {
		return value
	}
	shown := slices.Clone(value)
	if attr == copyup.CapsAttr {
		if len(shown) == capsSize3 {
			root, _ := shownID(fs.opt.UIDs, binary.LittleEndian.Uint32(shown[capsSize2:]))
			binary.LittleEndian.PutUint32(shown[capsSize2:], root)
		}
		return shown
	}
	_ = eachACLID(shown, func(group bool, id uint32) (uint32, error) { // it does not fail
		if group {
			return shownOr(fs.opt.GIDs, id, fs.overflowGID), nil
		}
		return shownOr(fs.opt.UIDs, id, fs.overflowUID), nil
	})
	return shown
}

func shownOr(ranges []IDRange, id, overflow uint32) uint32 { return shown(ranges, nil, id, overflow) }

// diskAttr is the way back. Capabilities of the root who is 0 on the disk are everybody's.
func (fs *FS) diskAttr(attr string, value []byte) ([]byte, error) {
	if !fs.mapsAttr(attr) {
		return value, nil
	}
	value = slices.Clone(value)
	if attr == copyup.CapsAttr {
		return fs.diskCaps(value)
	}
	err := eachACLID(value, func(group bool, id uint32) (uint32, error) {
		ranges := fs.opt.UIDs
		if group {
			ranges = fs.opt.GIDs
		}
		return onDisk(ranges, id)
	})
	return value, err
}

func onDisk(ranges []IDRange, id uint32) (uint32, error) {
	disk, ok := diskID(ranges, id)
	if !ok {
		return 0, fmt.Errorf("id %d is in none of the ranges: %w", id, unix.EOVERFLOW)
	}
	return disk, nil
}

func (fs *FS) diskCaps(value []byte) ([]byte, error) {
	if len(value) != capsSize3 {
		return value, nil
	}
	root, err := onDisk(fs.opt.UIDs, binary.LittleEndian.Uint32(value[capsSize2:]))
	if err != nil {
		return nil, err
	}
	if root != 0 {
		binary.LittleEndian.PutUint32(value[capsSize2:], root)
		return value, nil
	}
	magic := binary.LittleEndian.Uint32(value)
	binary.LittleEndian.PutUint32(value, magic&^uint32(capsRevision)|caps2)
	return value[:capsSize2], nil
}

// eachACLID changes the ids in an access list.
func eachACLID(list []byte, change func(group bool, id uint32) (uint32, error)) error {
	for at := aclHeader; at+aclEntry <= len(list); at += aclEntry {
		tag := binary.LittleEndian.Uint16(list[at:])
		if tag != aclUser && tag != aclGroup {
			continue
		}
		id, err := change(tag == aclGroup, binary.LittleEndian.Uint32(list[at+4:]))
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(list[at+4:], id)
	}
	return nil
}
