package unionfs

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The operations of the random test are done by other processes, which have open
// files of their own: the test binary, started again as a client. The process of
// the test serves the view and tells the clients what to do.

// clientEnv makes the test binary a client.
const clientEnv = "VARVE_TEST_CLIENT"

// task is one operation, in words that can be sent to another process. What the
// fields mean, the table clientOps says; unused ones are zero.
type task struct {
	Do         string
	Path, To   string // below the root
	Slot, From int    // open files of the client
	Flags      int
	Mode       uint32
	UID, GID   int
	Off, Size  int64
	Attr       string
	Data       []byte
	As         int // who does it: a user id
}

// order is what a client is sent: two roots to begin with, and then operations.
type order struct {
	View, Plain string // begin anew with these, all files closed
	NoRedirect  bool
	Ops         []task
}

// outcome is what came of one operation on either side.
type outcome struct {
	Skipped                     bool // the view may refuse it, and did
	View, ViewErr, Plain, PlErr string
}

// client is a process that does operations.
type client struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	enc *gob.Encoder
	dec *gob.Decoder
}

func startClient(t *testing.T) *client {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), clientEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
	})
	return &client{cmd, in, gob.NewEncoder(in), gob.NewDecoder(out)}
}

func (c *client) send(t require.TestingT, o order) { require.NoError(t, c.enc.Encode(&o)) }

func (c *client) answer(t require.TestingT) (list []outcome) {
	require.NoError(t, c.dec.Decode(&list))
	return list
}

// clientForTest is the main function of a client. It ends with its input.
func clientForTest(in io.Reader, out io.Writer) error {
	runtime.LockOSThread() // whose user id for files changes
	unix.Umask(0o027)
	dec, enc := gob.NewDecoder(in), gob.NewEncoder(out)
	var c actor
	for {
		var o order
		if err := dec.Decode(&o); err != nil {
			c.closeAll()
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if o.View != "" {
			c.closeAll()
			c.view.root, c.plain.root, c.noRedirect = o.View, o.Plain, o.NoRedirect
		}
		list := make([]outcome, 0, len(o.Ops))
		for _, one := range o.Ops {
			list = append(list, c.both(one))
		}
		if err := enc.Encode(list); err != nil {
			return err
		}
	}
}

// slots is how many files a client has open at most.
const slots = 6

// side is the view or the plain directory, as one client has it open.
type side struct {
	root string
	fds  [slots]int // 0: none
}

type actor struct {
	view, plain side
	noRedirect  bool
}

// both does one operation on the view and on the plain directory.
func (c *actor) both(o task) (r outcome) {
	if o.As != 0 {
		_ = unix.Setfsgid(o.As)
		_ = unix.Setfsuid(o.As)
		defer func() {
			_ = unix.Setfsuid(0)
			_ = unix.Setfsgid(0)
		}()
	}
	text, err := c.view.do(o)
	if c.noRedirect && errors.Is(err, unix.EXDEV) {
		return outcome{Skipped: true} // a directory that a layer has a part in
	}
	r.View, r.ViewErr = text, errnoOf(err)
	text, err = c.plain.do(o)
	r.Plain, r.PlErr = text, errnoOf(err)
	return r
}

func (c *actor) closeAll() {
	for k := range slots {
		c.view.close(k)
		c.plain.close(k)
	}
}

func (s *side) close(k int) {
	if s.fds[k] != 0 {
		_ = unix.Close(s.fds[k]) // every write had its own answer
		s.fds[k] = 0
	}
}

// do does one operation and describes what came of it.
func (s *side) do(o task) (string, error) {
	path, to := filepath.Join(s.root, o.Path), filepath.Join(s.root, o.To)
	if act, ok := onPaths[o.Do]; ok {
		return act(o, path, to)
	}
	if act, ok := onSlots[o.Do]; ok {
		return act(s, o, path)
	}
	fd := s.fds[o.Slot]
	if fd == 0 {
		return "nothing is open", nil
	}
	return onFiles[o.Do](o, fd)
}

func plainError(act func(o task, path string) error) func(o task, path, to string) (string, error) {
	return func(o task, path, _ string) (string, error) { return "", act(o, path) }
}

// onPaths are the operations on names.
var onPaths = map[string]func(o task, path, to string) (string, error){
	"mkdir":   plainError(func(o task, p string) error { return unix.Mkdir(p, o.Mode) }),
	"unlink":  plainError(func(_ task, p string) error { return unix.Unlink(p) }),
	"rmdir":   plainError(func(_ task, p string) error { return unix.Rmdir(p) }),
	"symlink": plainError(func(_ task, p string) error { return unix.Symlink("b/c", p) }),
	"mknod":   plainError(func(o task, p string) error { return unix.Mknod(p, o.Mode, int(o.Size)) }),
	"chmod":   plainError(func(o task, p string) error { return chmodNoFollow(p, o.Mode) }),
	"chown":   plainError(func(o task, p string) error { return unix.Lchown(p, o.UID, o.GID) }),
	"utimes": plainError(func(_ task, p string) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 7, Nsec: 1}, {Sec: 1e9, Nsec: 123456789}}, unix.AT_SYMLINK_NOFOLLOW)
	}),
	"rename": func(o task, a, b string) (string, error) {
		return "", unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, uint(o.Flags))
	},
	"link":     func(_ task, a, b string) (string, error) { return "", unix.Link(a, b) },
	"write":    plainError(writeFile),
	"truncate": plainError(truncateFile),
	"setxattr": plainError(func(o task, p string) error {
		return onlyFiles(p, func() error { return unix.Lsetxattr(p, o.Attr, o.Data, o.Flags) })
	}),
	"removexattr": plainError(func(o task, p string) error {
		return onlyFiles(p, func() error { return unix.Lremovexattr(p, o.Attr) })
	}),
	"getxattr":  func(o task, p, _ string) (string, error) { return getxattr(p, o.Attr) },
	"listxattr": func(_ task, p, _ string) (string, error) { return listXattrs(p) },
	"read":      func(_ task, p, _ string) (string, error) { return readNoFollow(p) },
	"readdir":   func(_ task, p, _ string) (string, error) { return listDir(p) },
	"churn":     func(_ task, p, _ string) (string, error) { return churn(p) },
	"lstat":     func(_ task, p, _ string) (string, error) { return describe(p) },
	"readlink":  func(_ task, p, _ string) (string, error) { return os.Readlink(p) },
	"patch":     plainError(patchFile),
	"access":    plainError(func(o task, p string) error { return unix.Faccessat(unix.AT_FDCWD, p, o.Mode, unix.AT_EACCESS) }),
	"tmpfile":   tmpfile,
}

// onSlots are the operations that open, close and use several open files.
var onSlots = map[string]func(s *side, o task, path string) (string, error){
	"open":  (*side).open,
	"close": func(s *side, o task, _ string) (string, error) { s.close(o.Slot); return "", nil },
	"copy":  (*side).copyRange,
}

// onFiles are the operations on an open file.
var onFiles = map[string]func(o task, fd int) (string, error){
	"fdwrite":   func(o task, fd int) (string, error) { return count(unix.Pwrite(fd, o.Data, o.Off)) },
	"fdappend":  func(o task, fd int) (string, error) { return count(unix.Write(fd, o.Data)) },
	"fdread":    func(o task, fd int) (string, error) { return preadText(fd, o.Off) },
	"fdstat":    func(_ task, fd int) (string, error) { return fstatText(fd) },
	"fdtrunc":   func(o task, fd int) (string, error) { return "", unix.Ftruncate(fd, o.Size) },
	"fdchmod":   func(o task, fd int) (string, error) { return "", unix.Fchmod(fd, o.Mode) },
	"fdchown":   func(o task, fd int) (string, error) { return "", unix.Fchown(fd, o.UID, o.GID) },
	"fallocate": func(o task, fd int) (string, error) { return "", unix.Fallocate(fd, o.Mode, o.Off, o.Size) },
	"fsync":     func(_ task, fd int) (string, error) { return "", unix.Fsync(fd) },
	"fdatasync": func(_ task, fd int) (string, error) { return "", unix.Fdatasync(fd) },
	"flock":     func(o task, fd int) (string, error) { return "", unix.Flock(fd, o.Flags|unix.LOCK_NB) },
	"lock": func(o task, fd int) (string, error) {
		return "", unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: int16(o.Flags), Start: o.Off, Len: 10})
	},
	"holes":     func(_ task, fd int) (string, error) { return "", checkHoles(fd) },
	"mapwrite":  func(o task, fd int) (string, error) { return "", mapWrite(fd, o.Off, o.Data) },
	"mapread":   func(o task, fd int) (string, error) { return mapRead(fd, o.Flags) },
	"direct":    func(o task, fd int) (string, error) { return direct(fd, o.Off, o.Data) },
	"fdsetattr": func(o task, fd int) (string, error) { return "", unix.Fsetxattr(fd, o.Attr, o.Data, 0) },
}

func count(n int, err error) (string, error) { return fmt.Sprint(n), err }

func writeFile(o task, p string) error {
	fd, err := unix.Open(p, o.Flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, o.Mode)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFIFO {
		return errors.Join(err, unix.Close(fd)) // the time of a FIFO differs, see docs/posix.md
	}
	_, err = unix.Write(fd, o.Data)
	return errors.Join(err, unix.Close(fd))
}

// truncateFile follows no symbolic link: it might lead to the other side.
func truncateFile(o task, p string) error {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return err
	}
	return unix.Truncate(p, o.Size)
}

// chmodNoFollow changes no symbolic link's target: it might be the other's.
func chmodNoFollow(p string, mode uint32) error {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return err
	}
	return unix.Chmod(p, mode)
}

// onlyFiles does act on files and directories: user attributes of other kinds
// are refused with different errors by different file systems.
func onlyFiles(p string, act func() error) error {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil
	}
	return act()
}

func getxattr(p, attr string) (value string, err error) {
	err = onlyFiles(p, func() error {
		buf := make([]byte, 256)
		n, err := unix.Lgetxattr(p, attr, buf)
		value = string(buf[:max(n, 0)])
		return err
	})
	return value, err
}

// shownAttrs are the attributes that must be the same on both sides.
var shownAttrs = []string{"user.test", "user.0", "user.1", "security.capability", aclDefault, "system.posix_acl_access"}

// listXattrs says which of them the list names: a security module may add its own.
func listXattrs(p string) (list string, err error) {
	err = onlyFiles(p, func() error {
		buf := make([]byte, 1024)
		n, err := unix.Llistxattr(p, buf)
		all := "\x00" + string(buf[:max(n, 0)])
		for _, attr := range shownAttrs {
			if strings.Contains(all, "\x00"+attr+"\x00") {
				list += attr + " "
			}
		}
		return err
	})
	return list, err
}

func readNoFollow(p string) (string, error) {
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	return string(data), err
}

// tmpfile makes a file without a name in the directory path, writes to it, and if
// o.To is not empty gives it that name.
func tmpfile(o task, path, to string) (string, error) {
	fd, err := unix.Open(path, unix.O_TMPFILE|unix.O_RDWR|unix.O_NOFOLLOW, o.Mode)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, o.Data); err != nil {
		return "", err
	}
	if o.To != "" {
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW)
	}
	text, statErr := fstatText(fd)
	return text, errors.Join(err, statErr)
}

// open puts a regular file in a slot; what was there is closed.
func (s *side) open(o task, path string) (string, error) {
	s.close(o.Slot)
	fd, err := unix.Open(path, o.Flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, o.Mode)
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "not a file", errors.Join(err, unix.Close(fd))
	}
	s.fds[o.Slot] = fd
	return "", nil
}

func (s *side) copyRange(o task, _ string) (string, error) {
	from, to := s.fds[o.From], s.fds[o.Slot]
	if from == 0 || to == 0 {
		return "nothing is open", nil
	}
	in, out := o.Off, o.Size // where to
	return count(unix.CopyFileRange(from, &in, to, &out, 3000, 0))
}

func preadText(fd int, off int64) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Pread(fd, buf, off)
	return string(buf[:max(n, 0)]), err
}

func fstatText(fd int) (string, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return describeStat(&st), err
}

// checkHoles walks the data and the holes of an open file: they must be in order
// and end with the file, and what is called a hole must read as zeros. Where they
// are may differ: it is the file system's to say.
func checkHoles(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if _, err := unix.Seek(fd, st.Size, unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("data behind the end: %w", err)
	}
	defer unix.Seek(fd, 0, unix.SEEK_SET)
	for off := int64(0); off < st.Size; {
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return zeros(fd, off, st.Size)
		}
		if err != nil || data < off {
			return fmt.Errorf("data at %d before %d: %w", data, off, err)
		}
		if err := zeros(fd, off, data); err != nil {
			return err
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil || hole <= data || hole > st.Size {
			return fmt.Errorf("hole at %d, data at %d, end at %d: %w", hole, data, st.Size, err)
		}
		off = hole
	}
	return nil
}

func zeros(fd int, from, to int64) error {
	buf := make([]byte, to-from)
	n, err := unix.Pread(fd, buf, from)
	if err != nil || n < len(buf) {
		return fmt.Errorf("%d of %d bytes: %w", n, len(buf), err)
	}
	if at := strings.IndexFunc(string(buf), func(r rune) bool { return r != 0 }); at >= 0 {
		return fmt.Errorf("byte %d is in a hole and not zero", from+int64(at))
	}
	return nil
}

// mapWrite writes through a shared mapping, within the file.
func mapWrite(fd int, off int64, data []byte) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size == 0 {
		return err
	}
	mapped, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(mapped[min(off, st.Size):], data)
	return errors.Join(unix.Msync(mapped, unix.MS_SYNC), unix.Munmap(mapped))
}

// mapRead reads through a mapping; a private one is written to before, which
// nobody else may see.
func mapRead(fd int, how int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size == 0 {
		return "", err
	}
	prot := unix.PROT_READ
	if how == unix.MAP_PRIVATE {
		prot |= unix.PROT_WRITE
	}
	mapped, err := unix.Mmap(fd, 0, int(st.Size), prot, how)
	if err != nil {
		return "", err
	}
	if how == unix.MAP_PRIVATE {
		mapped[0] = 'P'
	}
	text := string(mapped)
	return text, unix.Munmap(mapped)
}

// direct reads or, with data, writes one block past the page cache.
func direct(fd int, off int64, data []byte) (string, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return "", err
	}
	if flags&unix.O_APPEND != 0 && len(data) > 0 {
		return "the end need not be where a block begins", nil
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_DIRECT); err != nil {
		return "", err
	}
	defer unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags)
	block, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		return "", err
	}
	defer unix.Munmap(block)
	off &^= 4095
	if len(data) > 0 {
		copy(block, data)
		return count(unix.Pwrite(fd, block, off))
	}
	n, err := unix.Pread(fd, block, off)
	return string(block[:max(n, 0)]), err
}

// churn reads a directory in small pieces, with names coming and going in between,
// jumps back, and begins anew. What was there all the time must be seen exactly
// once in each reading (readdir(3)).
func churn(p string) (string, error) {
	before, err := listDir(p)
	if err != nil || before == "not a directory" {
		return before, err
	}
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	temp := func(k int) string { return fmt.Sprintf("%s/temp%d", p, k) }
	defer func() {
		for k := range 4 {
			_ = os.Remove(temp(k))
		}
	}()
	first, err := someNames(fd)
	if err != nil {
		return "", err
	}
	here, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	if err != nil {
		return "", err
	}
	err = errors.Join(unix.Mkdir(temp(0), 0o755), unix.Mknod(temp(1), unix.S_IFREG|0o644, 0), unix.Link(temp(1), temp(2)))
	if err != nil {
		return "", err
	}
	rest, err := restOfNames(fd)
	if err != nil {
		return "", err
	}
	err = errors.Join(unix.Rename(temp(1), temp(3)), unix.Rmdir(temp(0)))
	if _, seekErr := unix.Seek(fd, here, unix.SEEK_SET); err != nil || seekErr != nil {
		return "", errors.Join(err, seekErr)
	}
	again, err := restOfNames(fd)
	if err != nil {
		return "", err
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return "", err
	}
	all, err := restOfNames(fd)
	return strings.Join([]string{before, staying(first, rest), staying(first, again), staying(all)}, "\n"), err
}

// staying is what the readings saw of the names that were not made by churn.
func staying(readings ...[]string) string {
	var list []string
	for _, name := range slices.Concat(readings...) {
		if !strings.HasPrefix(name, "temp") {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// someNames reads as many names as a small buffer holds, from where fd is.
func someNames(fd int) (names []string, err error) {
	buf := make([]byte, 400)
	n, err := unix.Getdents(fd, buf)
	for buf = buf[:max(n, 0)]; len(buf) > 0; {
		size := binary.NativeEndian.Uint16(buf[16:])
		name, _, _ := bytes.Cut(buf[19:size], []byte{0})
		names = append(names, string(name))
		buf = buf[size:]
	}
	return names, err
}

func restOfNames(fd int) (all []string, err error) {
	for {
		names, err := someNames(fd)
		if err != nil || len(names) == 0 {
			return all, err
		}
		all = append(all, names...)
	}
}

// patchFile writes in the middle of a file: two at once, each its own bytes.
func patchFile(o task, p string) error {
	fd, err := unix.Open(p, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if _, err = unix.Pwrite(fd, o.Data, o.Off); errors.Is(err, unix.ESPIPE) {
		err = nil
	}
	return errors.Join(err, unix.Close(fd))
}
