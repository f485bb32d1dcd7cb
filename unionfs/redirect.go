package unionfs

import (
	"errors"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// A directory that a layer has a part in is renamed without being copied: in the
// upper it gets an attribute that says where the layers below have it. The form
// is the kernel's (overlayfs.rst, "redirect_dir"): a path from the root of the
// union below, or, without a leading slash, another name in the same directory.
var redirectAttrs = [...]string{"trusted.overlay.redirect", "user.overlay.redirect"}

// dirMarks is what a directory of a layer says of the layers below it.
type dirMarks struct {
	opaque   bool   // they have no part in it
	redirect string // they have it there, an absolute path or a name; "" where its own name says
}

// readMarks reads the marks of the directory behind fd that are attributes. An
// opaque directory is no longer what it may have been redirected to.
func readMarks(fd int) (dirMarks, error) {
	opaque, err := whiteout.IsOpaque(fd)
	if err != nil || opaque {
		return dirMarks{opaque: opaque}, err
	}
	var names [1024]byte
	n, err := unix.Flistxattr(fd, names[:])
	if n == 0 && err == nil || errors.Is(err, unix.EOPNOTSUPP) {
		return dirMarks{}, nil
	}
	for _, attr := range redirectAttrs {
		var buf [unix.PathMax]byte
		if n, err := unix.Fgetxattr(fd, attr, buf[:]); err == nil && n > 0 {
			return dirMarks{redirect: string(buf[:n])}, nil
		}
	}
	return dirMarks{}, nil
}

// setRedirect marks the directory name in dir as the one that the layers have at
// target, a path from their root.
func setRedirect(dir int, name, target string) error {
	fd, err := at.OpenDir(dir, name)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	err = unix.Fsetxattr(fd, redirectAttrs[0], []byte("/"+target), 0)
	if err != nil {
		err = unix.Fsetxattr(fd, redirectAttrs[1], []byte("/"+target), 0)
	}
	return os.NewSyscallError("setxattr "+redirectAttrs[1], err)
}

// part is a directory in one layer.
type part struct {
	layer uint16
	path  string
}

// resolve finds the parts that the layers from first on have in the directory at
// target: absolute, as the union of those layers shows it. There is none if it is
// hidden, or is not a directory there.
func (t *Tree) resolve(first uint16, target string) ([]part, error) {
	var parts []part
	for l := int(first); l < len(t.layers); l++ {
		parts = append(parts, part{layer: uint16(l)})
	}
	for name := range strings.SplitSeq(target, "/") {
		if name == "" || name == "." {
			continue
		}
		if name == ".." { // nobody writes that
			return nil, nil
		}
		var err error
		if parts, err = t.step(parts, name); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

// step goes from a directory, given by its parts, to the directory name in it.
func (t *Tree) step(parts []part, name string) (next []part, err error) {
	for _, p := range parts {
		marks, found, err := t.stepIn(p, name)
		if err != nil {
			return nil, err
		}
		if found {
			p.path = path.Join(p.path, name)
			next = append(next, p)
		}
		if marks.redirect != "" {
			rest, err := t.resolve(p.layer+1, absolute(marks.redirect, p.path))
			return append(next, rest...), err
		}
		if marks.opaque {
			break
		}
	}
	return next, nil
}

// absolute is where a redirect of the directory at place leads.
func absolute(redirect, place string) string {
	if strings.HasPrefix(redirect, "/") {
		return redirect
	}
	return path.Join(path.Dir(place), redirect)
}

// stepIn looks for the directory name in one part. Marks tell what that means
// for the parts below it.
func (t *Tree) stepIn(p part, name string) (marks dirMarks, found bool, err error) {
	dir, err := at.Beneath(t.layers[p.layer].root, p.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return marks, false, stale(err)
	}
	defer func() { _ = unix.Close(dir) }() // read only
	hidden, err := at.Exists(dir, whiteout.Prefix+name)
	if err != nil && !errors.Is(err, unix.ENAMETOOLONG) {
		return marks, false, err
	}
	fd, err := at.OpenDir(dir, name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return dirMarks{opaque: hidden}, false, nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP): // a whiteout or a file
		return dirMarks{opaque: true}, false, nil
	case err != nil:
		return marks, false, err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	if marks, err = readMarks(fd); err != nil {
		return marks, false, err
	}
	if !marks.opaque && marks.redirect == "" {
		marks.opaque, err = at.Exists(fd, whiteout.OpaqueName)
		marks.opaque = marks.opaque || hidden
	}
	return marks, true, err
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
