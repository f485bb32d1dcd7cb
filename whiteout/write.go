package whiteout

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// Dialect is a way to write whiteouts.
type Dialect int

const (
	// Auto is the zero value: [Probe] chooses.
	Auto Dialect = iota
	// Overlay is the kernel's dialect: devices and extended attributes.
	Overlay
	// OCI is the dialect of image layers: names with a prefix.
	OCI
)

// String returns the name that ParseDialect reads.
func (d Dialect) String() string {
	switch d {
	case Overlay:
		return "overlay"
	case OCI:
		return "oci"
	}
	return "auto"
}

// ParseDialect reads "auto", "overlay" or "oci".
func ParseDialect(s string) (Dialect, error) {
	for _, d := range []Dialect{Auto, Overlay, OCI} {
		if s == d.String() {
			return d, nil
		}
	}
	return Auto, fmt.Errorf("unknown whiteout dialect %q: use auto, overlay or oci", s)
}

// Probe tells which dialect can be written below work, a directory of the file
// system that the upper is on: overlay where device 0/0 (allowed to everyone
// since Linux 5.8, but not on every file system) and an opaque attribute can be
// made, OCI otherwise. It leaves nothing behind.
func Probe(work int) (Dialect, error) {
	denied, err := tryOverlay(work, ".varve-probe")
	switch {
	case err != nil:
		return Auto, err
	case denied != nil:
		return OCI, nil
	}
	return Overlay, nil
}

// tryOverlay writes marks of the overlay dialect in a directory name in dir, which it
// makes and removes. denied says why that can not be done.
func tryOverlay(dir int, name string) (denied, err error) {
	if err := at.RemoveAll(dir, name); err != nil {
		return nil, err
	}
	if err := at.Mkdir(dir, name, 0o700); err != nil {
		return nil, err
	}
	defer func() { _ = at.RemoveAll(dir, name) }() // swept at the next mount, too
	fd, err := at.OpenDir(dir, name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	if err := Overlay.Hide(fd, "device"); err != nil {
		return fmt.Errorf("a character device 0/0, the whiteout of the overlay dialect, can not be made here: %w", err), nil
	}
	if err := setOpaqueAttr(fd); err != nil {
		return fmt.Errorf("neither %s nor %s, the marks of an opaque directory in the overlay dialect, can be set here: %w",
			opaqueAttrs[0], opaqueAttrs[1], err), nil
	}
	return nil, nil
}

// Hide hides name in the directory behind dir by one system call, whole or not
// at all. In the overlay dialect name must not exist in dir ([unix.EEXIST]); to
// put a whiteout in the place of a file, make it elsewhere and rename it. In the
// OCI dialect name may exist: the file stays, and the layers below are hidden.
// A name whose whiteout would be longer than the file system allows gives
// ENAMETOOLONG.
func (d Dialect) Hide(dir int, name string) error {
	if d != OCI {
		return at.Mknod(dir, name, unix.S_IFCHR, 0)
	}
	fd, err := at.Open(dir, Prefix+name, unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return os.NewSyscallError("close", unix.Close(fd))
}

// Unhide removes the whiteout of name in the OCI dialect, if there is one. In
// the overlay dialect the whiteout has the place of the file, which is renamed
// over it, so there is nothing to do.
func (d Dialect) Unhide(dir int, name string) error {
	if d != OCI {
		return nil
	}
	err := at.Unlink(dir, Prefix+name)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENAMETOOLONG) {
		return nil
	}
	return err
}

// SetOpaque makes the directory behind dir opaque.
func (d Dialect) SetOpaque(dir int) error {
	if d != OCI {
		return setOpaqueAttr(dir)
	}
	fd, err := at.Open(dir, OpaqueName, unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return os.NewSyscallError("close", unix.Close(fd))
}

// setOpaqueAttr writes the attribute of the kernel where we may, else the one
// that it reads with the mount option userxattr.
func setOpaqueAttr(fd int) error {
	err := unix.Fsetxattr(fd, opaqueAttrs[0], []byte("y"), 0)
	if err == nil {
		return nil
	}
	return os.NewSyscallError("setxattr "+opaqueAttrs[1], unix.Fsetxattr(fd, opaqueAttrs[1], []byte("y"), 0))
}
