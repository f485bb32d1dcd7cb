package unionfs

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// A directory that a layer has a part in is renamed without being copied: in the
// upper it gets a mark that says where the layers below have it, in the kernel's
// form (whiteout.Marks).

// setRedirect marks the directory name in dir as the one that the layers have at
// target, a path from their root.
func setRedirect(dir int, name, target string) error {
	fd, err := at.OpenDir(dir, name)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	return whiteout.SetRedirect(fd, target)
}

// redirect marks a directory that is about to be renamed with where the layers
// have it, if they have a part in it. EXDEV: it can not be renamed.
// Preconditions: FS.ns is held for writing; v is a directory of the upper.
func (fs *FS) redirect(v *victim) error {
	if v.r.low == noInum {
		return nil
	}
	if fs.opt.NoRedirect {
		return unix.EXDEV
	}
	err := setRedirect(v.dir.fd, v.name, fs.tree.path(v.r.low))
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		return unix.EXDEV // no attributes on this file system
	}
	return err
}

// elsewhere tells whether n is a directory of the upper at another place already:
// two that continue the same lower one are found only in a damaged upper.
func elsewhere(n *node, p place) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.places) > 0 && !slices.Contains(n.places, p)
}
