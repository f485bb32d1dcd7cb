package runner

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// identity is who the program is.
type identity struct {
	uid, gid uint32
	groups   []uint32
}

// maxTable is how much is read of /etc/passwd and /etc/group, and maxLine how long
// a line of them may be: an image may bring a gigabyte (CVE-2024-9676).
const (
	maxTable = 8 << 20
	maxLine  = 64 << 10
)

// identity works out who the program is, and adds HOME to Env where it has none. Root
// has the groups that the image's table gives him, too.
func (o *order) identity(root int) (identity, error) {
	var who identity
	c, only := &o.Config, o.onlyID()
	cramped := c.Single && !o.Ask
	if cramped && c.UserIsWish {
		c.User = ""
		who.uid, who.gid = only.uid, only.gid
	}
	if c.User != "" {
		if err := c.findUser(root, &who); err != nil {
			return who, err
		}
	}
	if c.User == "" && !cramped {
		if err := who.join(root, "root"); err != nil {
			return who, err
		}
	}
	for _, name := range c.Groups {
		gid, err := findGroup(root, name)
		if err != nil {
			return who, err
		}
		who.groups = append(who.groups, gid)
	}
	if !cramped && !slices.Contains(who.groups, who.gid) { // CVE-2022-36109
		who.groups = append([]uint32{who.gid}, who.groups...)
	}
	if cramped && !who.is(only) {
		return who, fmt.Errorf("the user %q can not be had: this user namespace has a single id, %d", c.User, only.uid)
	}
	return who, nil
}

// is tells whether it is who every process with a single id is.
func (who identity) is(only identity) bool {
	other := slices.ContainsFunc(who.groups, func(gid uint32) bool { return gid != only.gid })
	return who.uid == only.uid && who.gid == only.gid && !other
}

// isRoot tells whether it is root, without other groups.
func (who identity) isRoot() bool { return who.is(identity{}) }

// onlyID is who there is where there is a single id.
func (c *Config) onlyID() identity {
	if len(c.UIDs) == 0 {
		return identity{}
	}
	return identity{uid: uint32(c.UIDs[0].Inside), gid: uint32(c.GIDs[0].Inside)}
}

// findUser reads USER[:GROUP]. The sentences are docker's.
func (c *Config) findUser(root int, who *identity) error {
	name, group, hasGroup := strings.Cut(c.User, ":")
	if name == "" {
		name = "0"
	}
	home, found := "/", false
	number, isNumber, err := parseName(name)
	if err != nil {
		return err
	}
	who.uid = number
	err = eachLine(root, "/etc/passwd", 7, func(field []string) bool {
		uid, ok1 := parseID(field[2])
		gid, ok2 := parseID(field[3])
		if !ok1 || !ok2 || field[0] != name && !(isNumber && uid == number) {
			return false
		}
		who.uid, who.gid, home, found = uid, gid, field[5], true
		name = field[0]
		return true
	})
	if err != nil {
		return err
	}
	if !found && !isNumber {
		return fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
	}
	if !slices.ContainsFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		c.Env = append(c.Env, "HOME="+home)
	}
	if hasGroup && group != "" {
		who.gid, err = findGroup(root, group)
		return err
	}
	if !found {
		return nil
	}
	return who.join(root, name)
}

// join adds the groups that the table has this user in.
func (who *identity) join(root int, name string) error {
	return eachLine(root, "/etc/group", 4, func(field []string) bool {
		gid, ok := parseID(field[2])
		if ok && slices.Contains(strings.Split(field[3], ","), name) {
			who.groups = append(who.groups, gid)
		}
		return false
	})
}

// findGroup finds a group by its name or number.
func findGroup(root int, name string) (uint32, error) {
	gid, found, err := parseName(name)
	if found || err != nil {
		return gid, err
	}
	err = eachLine(root, "/etc/group", 4, func(field []string) bool {
		n, ok := parseID(field[2])
		if ok && field[0] == name {
			gid, found = n, true
		}
		return found
	})
	if err == nil && !found {
		err = fmt.Errorf("unable to find group %s: no matching entries in group file", name)
	}
	return gid, err
}

// parseName is parseID of what may be a name, too. A number that can be no user and no
// group is an error.
func parseName(text string) (id uint32, isNumber bool, err error) {
	if id, ok := parseID(text); ok {
		return id, true, nil
	}
	if _, err := strconv.Atoi(text); err == nil || errors.Is(err, strconv.ErrRange) {
		return 0, false, errors.New("uids and gids must be in range 0-2147483647")
	}
	return 0, false, nil
}

// parseID reads a number that is a user or a group; -1 is none.
func parseID(text string) (uint32, bool) {
	n, err := strconv.ParseUint(text, 10, 31)
	return uint32(n), err == nil
}

// eachLine calls fn with the fields of the lines that have as many, until it says
// that it has found what it looked for. What is not a plain file in the root, and not
// there at all, has no lines; a FIFO is not waited for.
func eachLine(root int, name string, fields int, fn func(field []string) (done bool)) error {
	fd, err := at.InRoot(root, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil
	}
	file := os.NewFile(uintptr(fd), name)
	defer func() { _ = file.Close() }() // only read
	var st unix.Stat_t
	if err := at.Stat(fd, "", &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	lines := bufio.NewScanner(io.LimitReader(file, maxTable))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		field := strings.Split(lines.Text(), ":")
		if len(field) >= fields && fn(field) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s of the container: %w", name, err)
	}
	if st.Size > maxTable {
		return fmt.Errorf("%s of the container is larger than %d bytes, and what was looked for is not in these", name, maxTable)
	}
	return nil
}

// become makes the calling thread that user; its permitted capabilities stay. (The
// functions of unix would stop all threads for it.)
func (who identity) become(single bool) error {
	groups := unsafe.Pointer(unsafe.SliceData(who.groups))
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(who.groups)), uintptr(groups), 0)
	if errno != 0 && !(single && errno == unix.EPERM) { // denied in such a namespace
		return fmt.Errorf("setgroups %v: %w", who.groups, errno)
	}
	if who.isRoot() {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_KEEPCAPS: %w", err)
	}
	if _, _, errno = unix.RawSyscall(unix.SYS_SETRESGID, uintptr(who.gid), uintptr(who.gid), uintptr(who.gid)); errno != 0 {
		return fmt.Errorf("become the group %d: %w", who.gid, noID(errno))
	}
	if _, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, uintptr(who.uid), uintptr(who.uid), uintptr(who.uid)); errno != 0 {
		return fmt.Errorf("become the user %d: %w", who.uid, noID(errno))
	}
	return nil
}

// introduce has the parent note who the program takes itself for, before it begins.
func (who identity) introduce(control *link) error {
	if who.isRoot() {
		return nil
	}
	text := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, who.uid), who.gid)
	for _, gid := range who.groups {
		text = binary.LittleEndian.AppendUint32(text, gid)
	}
	if err := control.send(msgUser, string(text), -1); err != nil {
		return err
	}
	kind, _, _, err := control.receive()
	if err == nil && kind != msgUser {
		err = errors.New("the supervisor has died")
	}
	return err
}

// noID explains EINVAL of a change of user.
func noID(errno unix.Errno) error {
	if errno == unix.EINVAL {
		return fmt.Errorf("%w: the user namespace has no such id (see /etc/subuid and /etc/subgid)", errno)
	}
	return errno
}

// ownStreams gives the user the pipes and the terminal that are the descriptors 0 to
// 2, so that /dev/stdout can be opened again. Files are somebody else's.
func (who identity) ownStreams() error {
	if who.uid == 0 {
		return nil
	}
	for fd := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
		pts := st.Mode&unix.S_IFMT == unix.S_IFCHR && unix.Major(st.Rdev) == 136 // of devpts
		if st.Mode&unix.S_IFMT != unix.S_IFIFO && !pts {
			continue
		}
		err := unix.Fchown(fd, int(who.uid), -1)
		if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) { // it has an owner of outside
			return fmt.Errorf("descriptor %d: fchown: %w", fd, err)
		}
	}
	return nil
}
