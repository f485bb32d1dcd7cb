package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// hardLink gives a file that the archive made before a further name. What the
// header says beside is the file's already (tar(5)).
func (u *unpacker) hardLink(hdr *tar.Header, parent, base string) error {
	old, err := u.linkTarget(hdr.Linkname)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(old.parent.fd) }() // read only
	where, err := u.places.find(parent, true)
	if err != nil {
		return err
	}
	to := target{where, base, joinName(where.path, base)}
	if to.path != old.path {
		err = u.put(to, func() error { return at.Link(old.parent.fd, old.base, where.fd, base) })
	}
	return errors.Join(err, u.split.nothing(to.path))
}

// linkTarget finds the file that a hard link names. The caller closes the
// descriptor of its parent.
func (u *unpacker) linkTarget(unsafeName string) (target, error) {
	nowhere := func() error {
		return unsafeEntry("it is a hard link to %s, which is not in the archive before it", quote(unsafeName))
	}
	name, err := cleanName(unsafeName)
	if err != nil {
		return target{}, fmt.Errorf("hard link to %s: %w", quote(unsafeName), err)
	}
	parent, base := splitName(name)
	if base == "" || whiteout.Reserved(base) {
		return target{}, nowhere()
	}
	where, err := u.places.find(parent, false)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return target{}, nowhere()
	}
	if err != nil {
		return target{}, fmt.Errorf("hard link to %s: %w", quote(unsafeName), err)
	}
	if err := checkLinkable(where.fd, base, nowhere); err != nil {
		return target{}, err
	}
	// The next find may close the directory, so the caller gets one of its own.
	where.fd, err = unix.FcntlInt(uintptr(where.fd), unix.F_DUPFD_CLOEXEC, 0)
	return target{where, base, joinName(where.path, base)}, os.NewSyscallError("dup", err)
}

// checkLinkable refuses what can not be the target of a hard link.
func checkLinkable(dir int, base string, nowhere func() error) error {
	var st unix.Stat_t
	err := at.Stat(dir, base, &st)
	switch {
	case errors.Is(err, unix.ENOENT), err == nil && whiteout.IsDevice(st.Mode, st.Rdev):
		return nowhere()
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unsafeEntry("it is a hard link to the directory %q", base)
	}
	return err
}

// whiteout writes a mark into the directory parent. A directory that was reached
// through a symbolic link is refused: the mark would hide names of another place
// in the layers below than the one it was written for.
func (u *unpacker) whiteout(mark whiteout.Mark, parent, hidden string) error {
	if mark == whiteout.Meta {
		return nil
	}
	where, err := u.places.find(parent, true)
	if err != nil {
		return err
	}
	if where.linked {
		return unsafeEntry("a whiteout in the symbolic link %s", quote(parent))
	}
	if mark == whiteout.Opaque {
		return u.dialect.SetOpaque(where.fd)
	}
	err = u.dialect.Hide(where.fd, hidden)
	if errors.Is(err, unix.EEXIST) {
		return u.hideBelow(where, hidden)
	}
	return explainName(err)
}

// hideBelow hides a name that the layer itself has, in the overlay dialect, where
// the file has the place of its whiteout: a directory becomes opaque, and
// anything else hides what is below by being there.
func (u *unpacker) hideBelow(where place, name string) error {
	var st unix.Stat_t
	if err := at.Stat(where.fd, name, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return makeOpaque(u.dialect, where.fd, name)
}
