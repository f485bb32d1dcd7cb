package index

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// A directory of a layer may say that the layers below have it elsewhere. The
// form is the kernel's (overlayfs.rst, "redirect_dir"): a path from the root of the
// union below, or, without a leading slash, another name in the same directory.
var redirectAttrs = [...]string{"trusted.overlay.redirect", "user.overlay.redirect"}

// marks is what a directory of a layer says of the layers below it.
type marks struct {
	opaque   bool   // they have no part in it
	redirect string // they have it there; "" where its own name says
}

// readMarks reads the marks of the directory behind fd that are attributes. An
// opaque directory is no longer what it may have been redirected to.
func readMarks(fd int) (marks, error) {
	opaque, err := whiteout.IsOpaque(fd)
	if err != nil || opaque {
		return marks{opaque: opaque}, err
	}
	var names [1024]byte
	n, err := unix.Flistxattr(fd, names[:])
	if n == 0 && err == nil || errors.Is(err, unix.EOPNOTSUPP) {
		return marks{}, nil
	}
	for _, attr := range redirectAttrs {
		var buf [unix.PathMax]byte
		if n, err := unix.Fgetxattr(fd, attr, buf[:]); err == nil && n > 0 { // else absent
			return marks{redirect: string(buf[:n])}, nil
		}
	}
	return marks{}, nil
}

// part is a directory in one layer.
type part struct {
	layer uint16
	moved bool   // by a redirect: its path is not what the names say
	path  string // relative to the root of the layer
}

// follow finds the parts of a directory that its part p redirects to.
func (b *builder) follow(d *dir, p part, redirect string) (parts []part, err error) {
	if strings.HasPrefix(redirect, "/") || d.parent == nil {
		parts, err = b.resolve(p.layer+1, redirect)
	} else {
		parts, err = b.step(d.parent.below(p.layer), redirect)
	}
	for i := range parts {
		parts[i].moved = true
	}
	return parts, err
}

// resolve finds the parts that the layers from first on have in the directory at
// target: absolute, as the union of those layers shows it. There is none if it is
// hidden, or is not a directory there.
func (b *builder) resolve(first uint16, target string) ([]part, error) {
	var parts []part
	for l := int(first); l < len(b.roots); l++ {
		parts = append(parts, part{layer: uint16(l)})
	}
	for name := range strings.SplitSeq(target, "/") {
		if name == "" || name == "." {
			continue
		}
		var err error
		if parts, err = b.step(parts, name); err != nil || len(parts) == 0 {
			return nil, err
		}
	}
	return parts, nil
}

// isName tells whether a redirect may lead to name in a directory. Others are
// written by nobody, and lead nowhere.
func isName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName && !strings.ContainsAny(name, "/\x00")
}

// step goes from a directory, given by its parts, to the directory name in it.
func (b *builder) step(parts []part, name string) (next []part, err error) {
	if !isName(name) {
		return nil, nil
	}
	for _, p := range parts {
		m, found, err := b.stepIn(p, name)
		if err != nil {
			return nil, err
		}
		if found {
			next = append(next, part{layer: p.layer, path: path.Join(p.path, name)})
		}
		if m.redirect != "" {
			rest, err := b.resolve(p.layer+1, absolute(m.redirect, path.Join(p.path, name)))
			return append(next, rest...), err
		}
		if m.opaque {
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
func (b *builder) stepIn(p part, name string) (m marks, found bool, err error) {
	parent, err := b.open(p)
	if err != nil {
		return m, false, err
	}
	defer func() { _ = unix.Close(parent) }() // read only
	hidden, err := at.Exists(parent, whiteout.Prefix+name)
	if err != nil && !errors.Is(err, unix.ENAMETOOLONG) {
		return m, false, err
	}
	fd, err := at.OpenDir(parent, name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return marks{opaque: hidden}, false, nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP): // a whiteout or a file
		return marks{opaque: true}, false, nil
	case err != nil:
		return m, false, err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	if m, err = readMarks(fd); err != nil {
		return m, false, err
	}
	if !m.opaque && m.redirect == "" {
		m.opaque, err = at.Exists(fd, whiteout.OpaqueName)
		m.opaque = m.opaque || hidden
	}
	return m, true, err
}
