package whiteout

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// redirectAttrs hold a redirect; the first is written where we may. The form is
// the kernel's (overlayfs.rst, "redirect_dir"): a path from the root of the union
// below, or, without a leading slash, another name in the same directory.
var redirectAttrs = [...]string{"trusted.overlay.redirect", "user.overlay.redirect"}

// Marks is what the attributes of a layer's directory say of the layers below.
type Marks struct {
	Opaque   bool   // they have no part in it
	Redirect string // they have it there; "" where its own name says
}

// ReadMarks reads the marks of the directory behind fd. An opaque directory is no
// longer what it may have been redirected to.
func ReadMarks(fd int) (Marks, error) {
	some, err := hasAttrs(fd)
	if err != nil || !some {
		return Marks{}, err
	}
	if hasOpaque(fd) {
		return Marks{Opaque: true}, nil
	}
	for _, attr := range redirectAttrs {
		var buf [unix.PathMax]byte
		if n, err := unix.Fgetxattr(fd, attr, buf[:]); err == nil && n > 0 { // else absent
			return Marks{Redirect: string(buf[:n])}, nil
		}
	}
	return Marks{}, nil
}

// SetRedirect marks the directory behind fd as the one that the layers below have
// at target, a path from the root of their union.
func SetRedirect(fd int, target string) error {
	value := []byte("/" + target)
	if unix.Fsetxattr(fd, redirectAttrs[0], value, 0) == nil {
		return nil
	}
	return os.NewSyscallError("setxattr "+redirectAttrs[1], unix.Fsetxattr(fd, redirectAttrs[1], value, 0))
}

// Part is a directory in one layer of a chain: the number of the layer, the top
// one is 0, and the path in it, "" for its root.
type Part struct {
	Layer int
	Path  string
}

// Resolve finds the parts that the layers from first on have in the directory at
// target, as the union of those layers shows it: none if it is hidden or absent, or
// is no directory. Roots are descriptors of the layers' roots, top first.
func Resolve(roots []int, first int, target string) ([]Part, error) {
	parts, err := rootParts(roots, first)
	for name := range strings.SplitSeq(target, "/") {
		if err != nil || len(parts) == 0 {
			return nil, err
		}
		if name != "" && name != "." {
			parts, err = Step(roots, parts, name)
		}
	}
	return parts, err
}

// rootParts are the parts of the root of a union.
func rootParts(roots []int, first int) (parts []Part, err error) {
	for l := first; l < len(roots); l++ {
		parts = append(parts, Part{Layer: l})
		marks, err := marksWithFile(roots[l])
		if err != nil || marks.Opaque {
			return parts, err
		}
	}
	return parts, nil
}

// marksWithFile reads the marks of both dialects.
func marksWithFile(fd int) (Marks, error) {
	marks, err := ReadMarks(fd)
	if err == nil && !marks.Opaque && marks.Redirect == "" {
		marks.Opaque, err = at.Exists(fd, OpaqueName)
	}
	return marks, err
}

// Step goes from a directory, given by its parts, top first, to the directory name
// in it. What can be no name leads nowhere: a redirect says anything.
func Step(roots []int, parts []Part, name string) (next []Part, err error) {
	if !isName(name) {
		return nil, nil
	}
	for k, p := range parts {
		marks, found, err := stepIn(roots[p.Layer], p.Path, name)
		if err != nil {
			return nil, err
		}
		if found {
			next = append(next, Part{p.Layer, path.Join(p.Path, name)})
		}
		if marks.Redirect != "" {
			rest, err := follow(roots, parts[k:], marks.Redirect)
			return append(next, rest...), err
		}
		if marks.Opaque {
			break
		}
	}
	return next, nil
}

// follow finds what a redirect leads to that was found in the first of parts.
func follow(roots []int, parts []Part, redirect string) ([]Part, error) {
	if strings.HasPrefix(redirect, "/") {
		return Resolve(roots, parts[0].Layer+1, redirect)
	}
	return Step(roots, parts[1:], redirect)
}

func isName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= unix.NAME_MAX && !strings.ContainsAny(name, "/\x00")
}

// stepIn looks for the directory name in one part. Marks tell what that means for
// the parts below it.
func stepIn(root int, parent, name string) (marks Marks, found bool, err error) {
	dir, err := at.Beneath(root, parent, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return marks, false, err
	}
	defer func() { _ = unix.Close(dir) }() // read only
	hidden, err := at.Exists(dir, Prefix+name)
	if err != nil && !errors.Is(err, unix.ENAMETOOLONG) {
		return marks, false, err
	}
	fd, err := at.OpenDir(dir, name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return Marks{Opaque: hidden}, false, nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP): // a whiteout or a file
		return Marks{Opaque: true}, false, nil
	case err != nil:
		return marks, false, err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	marks, err = marksWithFile(fd)
	marks.Opaque = marks.Opaque || (hidden && marks.Redirect == "")
	return marks, true, err
}
