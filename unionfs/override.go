package unionfs

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// Override says which extended attribute holds the owner, the mode and, for a file
// that could not be made or could not have the attribute, the type of a file, in the
// place of what the file itself has. The numbers are those of fuse-overlayfs'
// xattr_permissions.
//
// The value is UID:GID:MODE, decimal, decimal and octal, and for a regular file
// that stands for something else :char-MAJOR-MINOR, :block-MAJOR-MINOR, :symlink,
// :pipe or :socket behind: the form of containers/storage (pkg/idtools), of
// fuse-overlayfs and of package archive. What stands for a symbolic link has its
// target as its data.
type Override uint8

const (
	// NoOverride reads and writes what the files themselves have.
	NoOverride Override = iota
	// OverrideSecurity is security.fuseoverlayfs.override_stat. Every file can have
	// it, but only root of the machine may write it.
	OverrideSecurity
	// OverrideUser is user.containers.override_stat, which regular files and
	// directories can have (xattr(7)). Devices are regular files that stand for them.
	// So are links, FIFOs and sockets with Options.StandIns; without it their owners are
	// as real as this process can make them.
	OverrideUser
)

// overrideAttrs are the attributes of an Override, the one to write first.
var overrideAttrs = [...][]string{
	OverrideSecurity: {"security.fuseoverlayfs.override_stat"},
	// The second is what fuse-overlayfs wrote before version 1.11.
	OverrideUser: {"user.containers.override_stat", "user.fuseoverlayfs.override_stat"},
}

// OwnerAttr is set to tell a view of Options.Told the owner of a file, as "UID:GID", -1 for
// one that stays: chown(2) for ids that have no place in the user namespace. It can not be
// read. The kernel lets nobody set it but who has CAP_SYS_ADMIN there (cap_inode_setxattr
// of Linux).
const OwnerAttr = "security.varve.owner"

// tellOwner is chown with the value of OwnerAttr.
func (fs *FS) tellOwner(id uint64, value string) fuse.Status {
	first, second, _ := strings.Cut(value, ":")
	uid, err1 := strconv.ParseInt(first, 10, 33)
	gid, err2 := strconv.ParseInt(second, 10, 33)
	if errors.Join(err1, err2) != nil || uid < -1 || gid < -1 {
		return fuse.EINVAL
	}
	r, err := fs.get(id)
	if err != nil {
		return status(err)
	}
	n, err := fs.upMeta(r)
	if err != nil {
		return status(err)
	}
	defer n.steady()()
	return status(fs.chownKept(n, int(uid), int(gid)))
}

func isOverrideAttr(attr string) bool {
	return attr == overrideAttrs[OverrideSecurity][0] || attr == overrideAttrs[OverrideUser][0]
}

// holds tells whether a file of this mode can have the attribute.
func (o Override) holds(mode uint32) bool {
	kind := mode & unix.S_IFMT
	return o == OverrideSecurity || o == OverrideUser && (kind == unix.S_IFREG || kind == unix.S_IFDIR)
}

// standsIn tells whether a regular file is made in the place of one of this kind.
func (fs *FS) standsIn(kind uint32) bool {
	if fs.opt.Override != OverrideUser {
		return false
	}
	switch kind {
	case unix.S_IFCHR, unix.S_IFBLK:
		return true
	case unix.S_IFLNK, unix.S_IFIFO, unix.S_IFSOCK:
		return fs.opt.StandIns
	}
	return false
}

// readlink returns the target of a symbolic link, or of the file that stands for it.
func (o Override) readlink(dir int, name string) (string, error) {
	target, err := at.Readlink(dir, name)
	// Of a descriptor that is no link's readlinkat(2) says ENOENT.
	if o == NoOverride || !errors.Is(err, unix.EINVAL) && (name != "" || !errors.Is(err, unix.ENOENT)) {
		return target, err
	}
	data, err := at.ReadFile(dir, name, unix.PathMax-1)
	if err == nil && len(data) == 0 { // as after a power failure
		err = fmt.Errorf("%q: the symbolic link has lost its target: %w", name, unix.EIO)
	}
	return string(data), err
}

// standIn is what is in a file that stands for this one.
func (o Override) standIn(dir int, name string, kind uint32) ([]byte, error) {
	if kind != unix.S_IFLNK {
		return []byte{}, nil
	}
	target, err := o.readlink(dir, name)
	return []byte(target), err
}

// read puts what the attribute of a file says over st, which the file itself has.
func (o Override) read(dir int, name string, st *unix.Stat_t) error {
	if !o.holds(st.Mode) {
		return nil
	}
	value, err := o.value(dir, name)
	if err != nil || value == "" {
		return err
	}
	if err := parseOverride(value, st); err != nil {
		return fmt.Errorf("%q: %w: %w", name, err, unix.EIO)
	}
	return nil
}

// value is that of the attribute, "" if there is none that we may read.
func (o Override) value(dir int, name string) (string, error) {
	for _, attr := range overrideAttrs[o] {
		value, err := at.Getxattr(dir, name, attr)
		switch {
		case err == nil:
			return string(value), nil
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			return "", nil
		case !errors.Is(err, unix.ENODATA):
			return "", err
		}
	}
	return "", nil
}

// parseOverride reads the value of the attribute into st.
func parseOverride(value string, st *unix.Stat_t) error {
	part := strings.SplitN(value, ":", 4)
	if len(part) < 3 {
		return fmt.Errorf("malformed override_stat %q", value)
	}
	uid, err1 := strconv.ParseUint(part[0], 10, 32)
	gid, err2 := strconv.ParseUint(part[1], 10, 32)
	mode, err3 := strconv.ParseUint(part[2], 8, 32) // older ones have the type in it, too
	kind, rdev := st.Mode&unix.S_IFMT, st.Rdev
	var err4 error
	if len(part) == 4 && kind == unix.S_IFREG {
		kind, rdev, err4 = whiteout.StandIn(part[3])
	}
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return fmt.Errorf("malformed override_stat %q", value)
	}
	if kind == unix.S_IFLNK {
		mode = 0o777 // a link has no other
	}
	st.Uid, st.Gid, st.Mode, st.Rdev = uint32(uid), uint32(gid), kind|uint32(mode)&0o7777, rdev
	return nil
}

// formatOverride is the value for st, of a file that really is of kind real.
func formatOverride(st *unix.Stat_t, real uint32) string {
	s := fmt.Sprintf("%d:%d:0%o", st.Uid, st.Gid, st.Mode&0o7777)
	if st.Mode&unix.S_IFMT == real {
		return s
	}
	if word := whiteout.StandInWord(st.Mode&unix.S_IFMT, st.Rdev); word != "" {
		s += ":" + word
	}
	return s
}

// write keeps owner, mode and type of st for a file of ours. The file itself gets
// a mode that leaves it open to us and gives nobody privileges.
func (o Override) write(dir int, name string, st *unix.Stat_t) error {
	var real unix.Stat_t
	if err := at.Stat(dir, name, &real); err != nil {
		return err
	}
	kind := real.Mode & unix.S_IFMT
	if !o.holds(kind) {
		return writeReal(dir, name, kind, st)
	}
	if mode := realMode(kind, st.Mode); kind != unix.S_IFLNK && mode != real.Mode&0o7777 {
		if err := at.Chmod(dir, name, mode); err != nil { // first: to set attributes takes write permission
			return err
		}
	}
	err := at.Setxattr(dir, name, overrideAttrs[o][0], []byte(formatOverride(st, kind)), 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("the file system of the upper directory has no such extended attributes, which are asked for to keep owners: %w", err)
	}
	return err
}

// writeReal gives a file that can not have the attribute an owner as far as we may.
func writeReal(dir int, name string, kind uint32, st *unix.Stat_t) error {
	if err := at.Chown(dir, name, int(st.Uid), int(st.Gid)); err != nil && !chownRefused(err) {
		return err
	}
	if kind == unix.S_IFLNK {
		return nil
	}
	return at.Chmod(dir, name, st.Mode&0o7777)
}

// realMode is the mode of the file itself, which is of this kind, where the attribute
// has the one to show.
func realMode(kind, mode uint32) uint32 {
	if kind == unix.S_IFREG && mode&unix.S_IFMT == unix.S_IFLNK {
		return 0o600
	}
	real := mode&0o7777&^(unix.S_ISUID|unix.S_ISGID) | 0o600
	if kind == unix.S_IFDIR {
		real |= 0o700
	}
	return real
}

// kinds corrects the types in a listing of the directory behind fd: regular files
// that stand for something else. Each regular file costs a system call.
func (o Override) kinds(fd int, list []at.Dirent) {
	if o == NoOverride {
		return
	}
	for k := range list {
		e := &list[k]
		if e.Type != unix.DT_REG {
			continue
		}
		st := unix.Stat_t{Mode: unix.S_IFREG}
		if err := o.read(fd, e.Name, &st); err == nil { // else who asks for the file itself is told
			e.Type = uint8(st.Mode & unix.S_IFMT >> 12)
		}
	}
}

// FindStandIn looks through the union of layers for a regular file that stands for a
// symbolic link, FIFO or socket ([OverrideUser]), which only a view shows as that. It
// returns the path of one, and "" if there is none.
func FindStandIn(lowers []Lower) (path string, err error) {
	t, err := OpenTree(lowers)
	if err != nil {
		return "", err
	}
	defer t.Close()
	var first error
	err = t.loadAll(func(d *lowerDir) {
		for _, e := range d.names {
			if e.kind != unix.S_IFREG || path != "" || first != nil {
				continue
			}
			st := unix.Stat_t{Mode: unix.S_IFREG}
			first = t.at(e.inum, func(dir int, name string) error { return OverrideUser.read(dir, name, &st) })
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFLNK, unix.S_IFIFO, unix.S_IFSOCK:
				path = t.path(e.inum)
			}
		}
	})
	return path, errors.Join(err, first)
}
