package archive

import (
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/whiteout"
)

// Where there is one user id only a regular file stands for what can not be made, a
// device, and for what can not have OverrideAttr, a symbolic link, FIFO or socket, if its
// owner has to be kept there. Behind the mode the attribute says which, in the words of
// containers/storage; what is in the file is the target of a link, and else nothing.

// linkMode is the mode of every symbolic link.
const linkMode = 0o777

// kind is what a file that has st on the disk is, or stands for.
func (a *attrs) kind(st *unix.Stat_t) (kind uint32, rdev uint64) {
	if a.standsFor == "" {
		return st.Mode & unix.S_IFMT, st.Rdev
	}
	kind, rdev, _ = whiteout.StandIn(a.standsFor) // it was read before
	return kind, rdev
}

// realMode is the mode of the file itself, of type kind, where the attribute has the one
// that is meant.
func (a *attrs) realMode(kind uint32) uint32 {
	if a.standsFor == whiteout.LinkWord {
		return 0o600
	}
	real := a.mode&^(unix.S_ISUID|unix.S_ISGID) | 0o600
	if kind == unix.S_IFDIR {
		real |= 0o700
	}
	return real
}

// standIn tells whether a file stands for one of this type with these attributes.
func (o owners) standIn(kind uint32, a *attrs) bool {
	if !o.squash {
		return false
	}
	switch kind {
	case unix.S_IFLNK:
	case unix.S_IFIFO:
		if a.realMode(kind) != a.mode {
			return true
		}
	default:
		return kind != unix.S_IFREG && kind != unix.S_IFDIR
	}
	return a.uid != os.Geteuid() || a.gid != os.Getegid()
}

// makeLink makes the symbolic link name in dir, or what stands for it, and returns what it
// made, for dress. It replaces nothing.
func (o owners) makeLink(dir int, name, target string, a *attrs) (real uint32, err error) {
	a.mode, a.standsFor = linkMode, ""
	if !o.standIn(unix.S_IFLNK, a) {
		return unix.S_IFLNK, at.Symlink(target, dir, name)
	}
	if len(target) >= unix.PathMax {
		return 0, unix.ENAMETOOLONG
	}
	a.standsFor = whiteout.LinkWord
	return unix.S_IFREG, at.WriteFile(dir, name, []byte(target))
}

// makeNode is makeLink for a device or FIFO.
func (o owners) makeNode(dir int, name string, kind uint32, rdev uint64, a *attrs) (real uint32, err error) {
	a.standsFor = ""
	if !o.standIn(kind, a) {
		err := at.Mknod(dir, name, kind|0o600, rdev)
		if kind == unix.S_IFIFO || !errors.Is(err, unix.EPERM) {
			return kind, err
		}
	}
	a.standsFor = whiteout.StandInWord(kind, rdev)
	return unix.S_IFREG, at.Mknod(dir, name, unix.S_IFREG|0o600, 0)
}

// readlink returns the target of a symbolic link, or of what stands for it.
func (a *attrs) readlink(dir int, name string) (string, error) {
	if a.standsFor != whiteout.LinkWord {
		return at.Readlink(dir, name)
	}
	data, err := at.ReadFile(dir, name, unix.PathMax-1)
	if err != nil {
		return "", err
	}
	return linkTargetOf(data)
}

// linkTargetOf is the target of a link for which a file with this data stands.
func linkTargetOf(data []byte) (string, error) {
	target := string(data)
	if target == "" || len(target) >= unix.PathMax || strings.IndexByte(target, 0) >= 0 {
		return "", errors.New("the file that stands for a symbolic link has no target in it: remove it")
	}
	return target, nil
}

// linkThere returns the target of name in dir, of which st was read; false if it is no
// symbolic link, nor stands for one.
func (o owners) linkThere(dir int, name string, st *unix.Stat_t) (target string, isLink bool, err error) {
	a := &attrs{}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFLNK {
		if kind != unix.S_IFREG || !o.squash {
			return "", false, nil
		}
		value, err := at.Getxattr(dir, name, layout.OverrideAttr)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
			return "", false, nil
		}
		if err == nil {
			err = a.parseOverride(string(value))
		}
		if err != nil || a.standsFor != whiteout.LinkWord {
			return "", false, err
		}
	}
	target, err = a.readlink(dir, name)
	return target, true, err
}

// become has f be what a regular file stands for.
func (f *File) become(kind uint32, rdev uint64) error {
	if kind == unix.S_IFLNK {
		if f.Open == nil {
			return errors.New("the file that stands for a symbolic link can not be read")
		}
		file, err := f.Open()
		if err != nil {
			return err
		}
		data, err := io.ReadAll(io.LimitReader(file, unix.PathMax))
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
		if f.Link, err = linkTargetOf(data); err != nil {
			return err
		}
	}
	f.Open = nil
	f.Stat.Mode, f.Stat.Rdev = kind|f.Stat.Mode&0o7777, rdev
	return nil
}

// asCopied has f be the link, FIFO or socket that it stands for, with the owner and the
// mode that such a file really has here, which can not keep others. A device stays what
// stands for it. It is for a copy, where programs see the files as they are.
func (o owners) asCopied(f *File) error {
	value, ok := f.Xattrs[layout.OverrideAttr]
	if !ok || !o.squash || f.Stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	var a attrs
	if err := a.parseOverride(string(value)); err != nil {
		return err
	}
	kind, _ := a.kind(&f.Stat)
	mode := a.realMode(kind)
	switch kind {
	case unix.S_IFLNK:
		mode = linkMode
	case unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return nil
	}
	f.Stat.Mode = unix.S_IFREG | mode
	return f.become(kind, 0)
}
