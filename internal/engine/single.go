package engine

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/unionfs"
)

// keepOwners has a view in a namespace of a single id keep true owners, modes and
// devices in [archive.OverrideAttr], where import has put them and commit finds
// them. Every file is shown as root's: the kernel refuses changes of files whose
// owner has no id in the namespace, also to the root there.
func keepOwners(opt *unionfs.Options) {
	opt.Told = true
	root := uint32(0)
	opt.Override = unionfs.OverrideUser
	opt.SquashUID, opt.SquashGID = &root, &root
}

// dressSingle gives the upper the word on the owner that the layers' root
// directory has. What is there already stays: it is a later one.
func dressSingle(upper string, lower unionfs.Lower) error {
	value, err := at.Getxattr(at.CWD, lower.Path, archive.OverrideAttr)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	err = at.Setxattr(at.CWD, upper, archive.OverrideAttr, value, unix.XATTR_CREATE)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
