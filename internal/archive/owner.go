package archive

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/whiteout"
)

// attrs is what belongs to a file beside its name and data.
type attrs struct {
	uid, gid  int
	mode      uint32 // permissions, 07777
	standsFor string // "char-1-3", "symlink": what the regular file stands for; see standin.go
	mtime     unix.Timespec
	xattrs    map[string]string
}

// override is the value of OverrideAttr for these.
func (a *attrs) override() string {
	s := fmt.Sprintf("%d:%d:0%o", a.uid, a.gid, a.mode)
	if a.standsFor != "" {
		s += ":" + a.standsFor
	}
	return s
}

// parseOverride reads the value of OverrideAttr into a. The type of a plain file
// or directory, which others write, is accepted and means nothing.
func (a *attrs) parseOverride(value string) error {
	bad := fmt.Errorf("malformed %s: %q", layout.OverrideAttr, value)
	part := strings.SplitN(value, ":", 4)
	if len(part) < 3 {
		return bad
	}
	uid, err1 := strconv.ParseUint(part[0], 10, 32)
	gid, err2 := strconv.ParseUint(part[1], 10, 32)
	mode, err3 := strconv.ParseUint(part[2], 8, 32)
	if errors.Join(err1, err2, err3) != nil {
		return bad
	}
	a.uid, a.gid, a.mode, a.standsFor = int(uid), int(gid), uint32(mode)&0o7777, ""
	if len(part) < 4 {
		return nil
	}
	switch kind, _, err := whiteout.StandIn(part[3]); {
	case err != nil:
		return bad
	case kind != unix.S_IFREG:
		a.standsFor = part[3]
	}
	return nil
}

// owners gives files their attributes, as far as this process may.
type owners struct {
	// squash: there is one user id only, so owners, setuid and setgid bits and
	// devices are kept in OverrideAttr instead of made, and so are links and FIFOs of
	// others, which can not have the attribute.
	squash bool
}

func newOwners() owners { return owners{squash: os.Geteuid() != 0 || singleID()} }

// singleID tells whether the user namespace has no more than one user.
func singleID() bool {
	file, err := os.Open("/proc/self/uid_map")
	if err != nil {
		return false // without /proc, chown itself will tell
	}
	defer func() { _ = file.Close() }() // read only
	total := 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if field := strings.Fields(lines.Text()); len(field) == 3 {
			n, _ := strconv.Atoi(field[2]) // the kernel writes numbers
			total += n
		}
	}
	return total == 1
}

// dress gives name in dir, of type kind (S_IFREG, …), its attributes. The order
// matters: chown clears setuid bits and capabilities, user attributes need a file
// that is still writable, times come last.
func (o owners) dress(dir int, name string, kind uint32, a *attrs) error {
	squash, err := o.chown(dir, name, a)
	if err != nil {
		return err
	}
	if err := setXattrs(dir, name, a.xattrs, squash); err != nil {
		return err
	}
	if kind != unix.S_IFLNK {
		if err := setMode(dir, name, kind, a, squash); err != nil {
			return err
		}
	}
	return at.Utimes(dir, name, a.mtime, a.mtime)
}

// chown tells whether the owner could not be given.
func (o owners) chown(dir int, name string, a *attrs) (squash bool, err error) {
	if o.squash {
		return true, nil
	}
	err = at.Chown(dir, name, a.uid, a.gid)
	// EINVAL: the user namespace has no such id.
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
		return true, nil
	}
	return false, err
}

func setMode(dir int, name string, kind uint32, a *attrs, squash bool) error {
	if !squash && a.standsFor == "" {
		return at.Chmod(dir, name, a.mode)
	}
	real := a.realMode(kind)
	if err := keepOverride(dir, name, kind, a, real); err != nil {
		return err
	}
	return at.Chmod(dir, name, real)
}

// keepOverride writes OverrideAttr where the real file will not be what it should.
func keepOverride(dir int, name string, kind uint32, a *attrs, real uint32) error {
	if kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil // user attributes are only for these two (xattr(7))
	}
	var st unix.Stat_t
	if err := at.Stat(dir, name, &st); err != nil {
		return err
	}
	if a.standsFor == "" && real == a.mode && int(st.Uid) == a.uid && int(st.Gid) == a.gid {
		return nil
	}
	err := at.Setxattr(dir, name, layout.OverrideAttr, []byte(a.override()), 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("the file system has no user extended attributes, which without root are needed to keep owners: %w", err)
	}
	return err
}

// storable tells whether an attribute of an archive or an upper may be in a
// layer: not the marks of the union, and not the word on owners, either of which
// an archive could use to say what its headers do not.
func storable(attr string) bool { return !whiteout.PrivateAttr(attr) && attr != layout.OverrideAttr }

// setXattrs leaves out what the file system or the kernel does not allow us, and
// of a squashed file all that is not the user's own: in a user namespace the
// kernel would take capabilities and ACLs, but they would speak of the wrong ids.
func setXattrs(dir int, name string, list map[string]string, squash bool) error {
	for _, attr := range slices.Sorted(maps.Keys(list)) {
		if !storable(attr) || squash && !strings.HasPrefix(attr, "user.") {
			continue // the layer's tar still has it; see the package comment
		}
		err := at.Setxattr(dir, name, attr, []byte(list[attr]), 0)
		switch {
		case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.EOPNOTSUPP):
			continue
		case err != nil:
			return err
		}
	}
	return nil
}

// hostAttrs belong to the host rather than to the file: labels and checksums that
// mean nothing, or the wrong thing, on another one.
var hostAttrs = []string{"security.selinux", "security.ima", "security.evm", "security.apparmor"}

// attrsOf reads what belongs to name in dir, "" for dir itself, beside its data.
// Where this process has one user id only, the true owner, mode and type are in
// OverrideAttr; elsewhere anyone inside a container can set that attribute, so
// there it says nothing.
func (o owners) attrsOf(dir int, name string, kind uint32) (*attrs, error) {
	var st unix.Stat_t
	if err := at.Stat(dir, name, &st); err != nil {
		return nil, err
	}
	list, err := at.Listxattr(dir, name)
	if err != nil {
		return nil, err
	}
	xattrs := map[string][]byte{}
	for _, attr := range list {
		if attr != layout.OverrideAttr && (!storable(attr) || slices.Contains(hostAttrs, attr)) {
			continue
		}
		value, err := at.Getxattr(dir, name, attr)
		if errors.Is(err, unix.ENODATA) { // removed since it was listed
			continue
		}
		if err != nil {
			return nil, err
		}
		xattrs[attr] = value
	}
	st.Mode = st.Mode&^unix.S_IFMT | kind
	return o.attrsFrom(&st, xattrs)
}

// attrsFrom is attrsOf for a file that has st and xattrs on the disk.
func (o owners) attrsFrom(st *unix.Stat_t, xattrs map[string][]byte) (*attrs, error) {
	f := File{Stat: *st, Xattrs: xattrs}
	a, kind := f.attrs(), st.Mode&unix.S_IFMT
	value, kept := xattrs[layout.OverrideAttr]
	if !kept || !o.squash || kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return a, nil
	}
	if err := a.parseOverride(string(value)); err != nil {
		return nil, err
	}
	if kind != unix.S_IFREG {
		a.standsFor = ""
	}
	if a.standsFor == whiteout.LinkWord {
		a.mode = linkMode
	}
	return a, nil
}
