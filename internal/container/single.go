package container

import (
	"errors"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/runner"
	"github.com/varvefs/varve/unionfs"
)

// keepOwners has a view in a namespace of a single id keep true owners, modes and
// devices in [layout.OverrideAttr], where import has put them and commit finds
// them. Regular files stand for what can not have it, links, FIFOs and sockets, if the store
// stays one of a single id: with more they would be seen. Every file is shown as root's: the
// kernel refuses changes of files whose owner has no id in the namespace, also to the root
// there.
func (p Place) keepOwners(opt *unionfs.Options) error {
	opt.Told = true
	root := uint32(0)
	opt.Override = unionfs.OverrideUser
	opt.SquashUID, opt.SquashGID = &root, &root
	_, err := os.Lstat(p.Path(layout.SingleName))
	if opt.StandIns = err == nil; errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// dressSingle gives the upper the word on the owner that the layers' root
// directory has. What is there already stays: it is a later one.
func dressSingle(upper string, lower unionfs.Lower) error {
	value, err := at.Getxattr(at.CWD, lower.Path, layout.OverrideAttr)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	err = at.Setxattr(at.CWD, upper, layout.OverrideAttr, value, unix.XATTR_CREATE)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// IDs says how the owners of files are shown, in a view and in an export.
type IDs struct {
	Single bool // true owners are kept in an attribute
	// Overflow has files of nobody we know shown as root's, since programs ask:
	// in a single-id namespace, and where this machine's files are seen by an
	// ordinary user.
	Overflow bool
}

// IDsOf is how this process shows the files of a container.
func IDsOf(spec Spec) (IDs, error) {
	ns, err := runner.CurrentUserns()
	if err != nil || ns == nil {
		return IDs{}, err
	}
	return IDs{Single: ns.Single, Overflow: ns.Single || slices.Contains(spec.Layers, HostLayer)}, nil
}
