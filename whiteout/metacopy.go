package whiteout

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// metacopyAttrs mark a regular file of a layer that has only the metadata, while
// the data is in a layer below (overlayfs.rst, "Metadata only copy up"): under the
// same name, or where a redirect on the file says. The first is written where we
// may. Their value is empty or a digest of the data, which is not looked at.
var metacopyAttrs = [...]string{"trusted.overlay.metacopy", "user.overlay.metacopy"}

// FileMarks is what the attributes of a layer's regular file say of the layers
// below.
type FileMarks struct {
	Metacopy bool   // the data is there
	Redirect string // it is there under this name or path; "" for its own. Only of a metacopy
}

// ReadFileMarks reads the marks of the regular file name in dir; for "" of the file
// behind dir.
func ReadFileMarks(dir int, name string) (FileMarks, error) {
	attrs, err := at.Listxattr(dir, name)
	if err != nil || !slices.ContainsFunc(attrs, IsMetacopyAttr) {
		return FileMarks{}, err
	}
	for _, attr := range redirectAttrs {
		value, err := at.Getxattr(dir, name, attr)
		if err == nil && len(value) > 0 { // else absent
			return FileMarks{true, string(value)}, nil
		}
	}
	return FileMarks{Metacopy: true}, nil
}

// IsMetacopyAttr tells whether an attribute marks a metacopy.
func IsMetacopyAttr(attr string) bool { return slices.Contains(metacopyAttrs[:], attr) }

// IsMetacopy tells whether the regular file behind fd has its data in a layer below.
// For most files that takes one system call.
func IsMetacopy(fd int) (bool, error) {
	some, err := hasAttrs(fd)
	if err != nil || !some {
		return false, err
	}
	marks, err := ReadFileMarks(fd, "")
	return marks.Metacopy, err
}

// SetMetacopy marks the regular file behind fd as one whose data is below.
func SetMetacopy(fd int) error {
	if unix.Fsetxattr(fd, metacopyAttrs[0], nil, 0) == nil {
		return nil
	}
	return os.NewSyscallError("setxattr "+metacopyAttrs[1], unix.Fsetxattr(fd, metacopyAttrs[1], nil, 0))
}

// UnsetMetacopy says that the file behind fd has data of its own.
func UnsetMetacopy(fd int) error {
	for _, attr := range metacopyAttrs {
		err := unix.Fremovexattr(fd, attr)
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EPERM) {
			return os.NewSyscallError("removexattr "+attr, err)
		}
	}
	if still, err := IsMetacopy(fd); err != nil || still {
		return errors.Join(err, fmt.Errorf("the mark of a file without data stays: %w", unix.EPERM))
	}
	return nil
}

// OpenData finds the data of the file name: in the first of parts, which are a
// directory as [Step] takes it, or, if the file is a metacopy there, in the layers
// below. It gives the place, and a descriptor for reading, which is the caller's. A
// metacopy of which no layer has the data is EIO, as with the kernel.
func OpenData(roots []int, parts []Part, name string) (where Part, fd int, err error) {
	for len(parts) > 0 && isName(name) {
		p := parts[0]
		fd, below, err := dataIn(roots[p.Layer], p.Path, name)
		switch {
		case err != nil:
			return Part{}, -1, err
		case fd >= 0:
			return Part{p.Layer, path.Join(p.Path, name)}, fd, nil
		case below.Opaque:
			parts = nil
		case strings.HasPrefix(below.Redirect, "/"):
			dir, base := path.Split(below.Redirect)
			if parts, err = Resolve(roots, p.Layer+1, dir); err != nil {
				return Part{}, -1, err
			}
			name = base
		default:
			parts = parts[1:]
			if below.Redirect != "" {
				name = below.Redirect
			}
		}
	}
	return Part{}, -1, fmt.Errorf("no layer has the data of %q, which is only metadata: %w", name, unix.EIO)
}

// dataIn opens the regular file name in one part of its directory, if that has the
// data. If not, fd is -1, and below tells where the layers below may have it.
func dataIn(root int, parent, name string) (fd int, below Marks, err error) {
	dir, err := at.Beneath(root, parent, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return -1, below, err
	}
	defer func() { _ = unix.Close(dir) }() // read only
	hidden, err := at.Exists(dir, Prefix+name)
	if err != nil && !errors.Is(err, unix.ENAMETOOLONG) {
		return -1, below, err
	}
	var st unix.Stat_t
	err = at.Stat(dir, name, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return -1, Marks{Opaque: hidden}, nil
	case err != nil:
		return -1, below, err
	case st.Mode&unix.S_IFMT != unix.S_IFREG: // a whiteout, or another file
		return -1, Marks{Opaque: true}, nil
	}
	marks, err := ReadFileMarks(dir, name)
	if err != nil || marks.Metacopy {
		return -1, Marks{Opaque: hidden && marks.Redirect == "", Redirect: marks.Redirect}, err
	}
	fd, err = at.Open(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOATIME, 0)
	return fd, below, err
}
