package runner

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/seccomp"
)

// ownerAttr is the attribute by which a view is told the owner of a file: "UID:GID",
// -1 for one that stays. It is that of package unionfs, whose word this room can not use.
const ownerAttr = "security.varve.owner"

// office is what the clerk works with.
type office struct {
	proc   int    // /proc of the caller, in which the programs have their pids
	device uint64 // of the view
	paths  chan walk
}

// walk asks the thread that walks paths for the file there, O_PATH.
type walk struct {
	root, base int
	path       string
	flags      int
	done       chan<- walked
}

type walked struct {
	fd  int
	err error
}

// clerkStage is all that the clerk does. It does not return.
func clerkStage() {
	if err := serveDesk(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "varve: clerk:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveDesk(view string) error {
	proc, err := at.OpenRoot("/proc")
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err = unix.Stat(view, &st); err != nil {
		return err
	}
	o := &office{proc: proc, device: st.Dev, paths: make(chan walk)}
	go o.walk()
	buf, oob := make([]byte, longestErrand), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := recvmsg(deskFD, buf, oob, 0)
		if err != nil || n == 0 { // the caller has gone
			return err
		}
		answer, err := o.serve(buf[:n], oob[:oobn])
		if err != nil {
			return err
		}
		if err = unix.Sendmsg(deskFD, answer, nil, nil, unix.MSG_NOSIGNAL); err != nil {
			return err
		}
	}
}

// serve does an errand, and returns an errno and what was read.
func (o *office) serve(raw, oob []byte) ([]byte, error) {
	listener, err := receivedFile(oob)
	if err != nil {
		return nil, err
	}
	defer func() { _ = listener.Close() }() // the caller has it
	var e errand
	n, err := binary.Decode(raw, binary.LittleEndian, &e)
	if err != nil {
		return nil, err
	}
	data, err := o.do(&e, raw[n:], int(listener.Fd()))
	errno := unix.Errno(0)
	if err != nil && !errors.As(err, &errno) {
		errno = unix.EIO
	}
	return append(binary.LittleEndian.AppendUint32(nil, uint32(errno)), data...), nil
}

func (o *office) do(e *errand, data []byte, listener int) ([]byte, error) {
	switch e.Do {
	case doRead:
		data, err := readMemory(int(e.PID), e.Address, int(e.Length))
		if err == nil && !seccomp.Waits(listener, e.ID) { // it was somebody else's
			err = unix.EFAULT
		}
		return data, err
	case doWrite:
		if !seccomp.Waits(listener, e.ID) {
			return nil, unix.EFAULT
		}
		return nil, writeMemory(int(e.PID), e.Address, data)
	}
	return nil, o.change(e, listener)
}

func readMemory(pid int, address uint64, length int) ([]byte, error) {
	data := make([]byte, length)
	if length == 0 {
		return data, nil
	}
	local := []unix.Iovec{{Base: &data[0], Len: uint64(length)}}
	n, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(address), Len: length}}, 0)
	if err == nil && n < length {
		err = unix.EFAULT
	}
	return data, err
}

func writeMemory(pid int, address uint64, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	local := []unix.Iovec{{Base: &data[0], Len: uint64(len(data))}}
	n, err := unix.ProcessVMWritev(pid, local, []unix.RemoteIovec{{Base: uintptr(address), Len: len(data)}}, 0)
	if err == nil && n < len(data) {
		err = unix.EFAULT
	}
	return err
}

// readPath reads a string that ends with a NUL, page by page, since what is behind it may
// not be there.
func readPath(pid int, address uint64) (string, error) {
	var path []byte
	for len(path) < unix.PathMax {
		length := os.Getpagesize() - int((address+uint64(len(path)))%uint64(os.Getpagesize()))
		part, err := readMemory(pid, address+uint64(len(path)), length)
		if err != nil {
			return "", err
		}
		if end := bytes.IndexByte(part, 0); end >= 0 {
			if path = append(path, part[:end]...); len(path) >= unix.PathMax {
				break
			}
			return string(path), nil
		}
		path = append(path, part...)
	}
	return "", unix.ENAMETOOLONG
}

// change gives a file of the view another owner or mode. For all other files, such as those
// of volumes, it seems to have been done.
func (o *office) change(e *errand, listener int) error {
	file, err := o.find(e, listener)
	if err != nil {
		return err
	}
	if file < 0 {
		return nil
	}
	defer func() { _ = unix.Close(file) }() // O_PATH
	var st unix.Stat_t
	if err = unix.Fstat(file, &st); err != nil || st.Dev != o.device {
		return err
	}
	if e.Do == doChown {
		return tellOwner(file, &st, e)
	}
	return keepAttribute(file, &st, e)
}

// wanted is an id as the view reads it: -1 is the one that the file has.
func wanted(id uint32) string {
	if id == keep {
		return "-1"
	}
	return strconv.FormatUint(uint64(id), 10)
}

// tellOwner has a view of ours keep the owner.
func tellOwner(file int, st *unix.Stat_t, e *errand) error {
	owner := wanted(e.UID) + ":" + wanted(e.GID)
	if err := at.Setxattr(file, "", ownerAttr, []byte(owner), 0); err != nil {
		return err
	}
	// The kernel forgets what it knows of the file only if it changes something by itself.
	mode := st.Mode & 0o7777
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK: // has no mode to change
		return at.Utimes(file, "", st.Atim, unix.Timespec{Nsec: unix.UTIME_OMIT})
	case unix.S_IFREG:
		mode = unprivileged(mode)
	}
	return at.Chmod(file, "", mode)
}

// keptAttr has owner and mode of a file in the place of its own, as UID:GID:MODE and what it
// stands for. It is that of package unionfs.
const keptAttr = "user.containers.override_stat"

// keepAttribute writes owner or mode to the attribute. Only files and directories can have
// it; a mode is written only to one that is there.
func keepAttribute(file int, st *unix.Stat_t, e *errand) error {
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil
	}
	value, err := at.Getxattr(file, "", keptAttr)
	if errors.Is(err, unix.ENODATA) {
		if e.Do == doChmod {
			return nil
		}
		value, err = fmt.Appendf(nil, "0:0:0%o", st.Mode&0o7777), nil
	}
	if err != nil {
		return err
	}
	part := strings.SplitN(string(value), ":", 4)
	if len(part) < 3 {
		return unix.EIO
	}
	mode, err := strconv.ParseUint(part[2], 8, 32)
	if err != nil {
		return unix.EIO
	}
	if e.UID != keep {
		part[0] = strconv.FormatUint(uint64(e.UID), 10)
	}
	if e.GID != keep {
		part[1] = strconv.FormatUint(uint64(e.GID), 10)
	}
	switch {
	case e.Do == doChmod:
		mode = uint64(e.Mode & 0o7777)
	case st.Mode&unix.S_IFMT == unix.S_IFREG:
		mode = uint64(unprivileged(uint32(mode)))
	}
	part[2] = "0" + strconv.FormatUint(mode&0o7777, 8)
	return at.Setxattr(file, "", keptAttr, []byte(strings.Join(part, ":")), 0)
}

// unprivileged is a mode without what chown(2) takes away.
func unprivileged(mode uint32) uint32 {
	mode &^= unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	return mode
}

// find opens the file that a call is about, -1 if it is one that can not be told.
func (o *office) find(e *errand, listener int) (file int, err error) {
	path := ""
	if e.Descriptor == 0 {
		if path, err = readPath(int(e.PID), e.Address); err != nil {
			return -1, err
		}
	}
	base, err := o.base(e)
	if err != nil {
		return -1, err
	}
	if path == "" && (e.Descriptor != 0 || e.Flags&unix.AT_EMPTY_PATH != 0) {
		return o.sure(e, listener, base)
	}
	defer func() { _ = unix.Close(base) }() // O_PATH
	if path == "" {
		return -1, unix.ENOENT
	}
	root, err := o.of(e, "root", unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(root) }() // O_PATH
	if !seccomp.Waits(listener, e.ID) {     // it was somebody else's
		return -1, unix.ENOENT
	}
	flags := unix.O_PATH
	if e.Flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		flags |= unix.O_NOFOLLOW
	}
	done := make(chan walked, 1)
	o.paths <- walk{root, base, path, flags, done}
	got := <-done
	if errors.Is(got.err, unix.ELOOP) || errors.Is(got.err, unix.ENOENT) && isOwnDescriptor(path) {
		return -1, nil // through a descriptor of a process: a pipe, or a terminal
	}
	return got.fd, got.err
}

// isOwnDescriptor tells whether a path is one to a descriptor of who walks it.
func isOwnDescriptor(path string) bool {
	for _, prefix := range []string{"/proc/self/", "/proc/thread-self/", "/dev/fd/", "/dev/std"} {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

// sure closes file unless the question still waits.
func (o *office) sure(e *errand, listener, file int) (int, error) {
	if seccomp.Waits(listener, e.ID) {
		return file, nil
	}
	return -1, errors.Join(unix.ENOENT, unix.Close(file))
}

// base opens the directory that a path of who asks begins at, or the file of its
// descriptor.
func (o *office) base(e *errand) (int, error) {
	if e.Dir == unix.AT_FDCWD {
		return o.of(e, "cwd", unix.O_DIRECTORY)
	}
	fd, err := o.of(e, "fd/"+strconv.Itoa(int(e.Dir)), 0)
	if errors.Is(err, unix.ENOENT) {
		err = unix.EBADF
	}
	return fd, err
}

// of opens what a magic link of the process who asks leads to, O_PATH.
func (o *office) of(e *errand, link string, flags int) (int, error) {
	return at.Follow(o.proc, fmt.Sprintf("%d/%s", e.PID, link), flags|unix.O_PATH)
}

// walk is a thread whose root and working directory are those of who asks. So it
// resolves a path as the kernel does for him, and finds nothing outside.
func (o *office) walk() {
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_FS)
	for w := range o.paths {
		if err != nil {
			w.done <- walked{-1, err}
			continue
		}
		fd, walkErr := w.open()
		w.done <- walked{fd, walkErr}
	}
}

func (w *walk) open() (int, error) {
	if err := unix.Fchdir(w.root); err != nil {
		return -1, err
	}
	if err := unix.Chroot("."); err != nil {
		return -1, err
	}
	if err := unix.Fchdir(w.base); err != nil && (err != unix.ENOTDIR || !strings.HasPrefix(w.path, "/")) {
		return -1, err
	}
	return at.Walk(w.path, w.flags)
}
