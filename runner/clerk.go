package runner

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/seccomp"
)

// The clerk does for a [Pretence] what may have to wait for the view, which its caller
// serves: it reads and writes the memory of programs, and walks their paths. It is a
// process of its own that comes with the first call that needs it, and ends when the
// other end of its socket is closed.

// clerkName is argv[0] of the clerk.
const clerkName = "varve-clerk"

// deskFD is a descriptor of the clerk, after two that are /dev/null and the caller's stderr: a
// socket. An errand comes in, what has come of it goes out. The teller has one, too.
const deskFD = 3

// An errand is what the clerk is asked to do.
type errand struct {
	Do         uint32
	PID        uint32
	ID         uint64 // of the question that is to be answered
	Address    uint64 // in the memory of PID
	Length     uint32 // to be read
	Dir        int32  // of the path, AT_FDCWD or a descriptor of PID
	Flags      uint32 // AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH
	UID, GID   uint32
	Mode       uint32
	Descriptor uint32 // 1: the file is Dir itself, there is no path
}

// What can be asked of the clerk.
const (
	doRead      = iota // memory; it is in the answer
	doWrite            // memory; what to write is behind the errand
	doChown            // tell the view the owner of a file
	doKeepOwner        // write it to the attribute that has it
	doChmod            // likewise the mode, if there is such an attribute
)

// longestErrand is one with all its bytes.
const longestErrand = 4*mostGroups + 128

// clerk is the caller's side.
type clerk struct {
	proc *process
	desk *os.File
}

// newClerk starts a clerk for the programs whose root is view, by stage or this program
// itself if that is nil.
func newClerk(view string, stage *os.File) (*clerk, error) {
	proc, desk, err := startHelper(clerkName, view, stage)
	if err != nil {
		return nil, err
	}
	return &clerk{proc, desk}, nil
}

// startHelper starts a process of this name for the programs whose root is view. desk is a
// socket to its descriptor deskFD.
func startHelper(name, view string, stage *os.File) (proc *process, desk *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	desk = os.NewFile(uintptr(fds[0]), name)
	theirs := os.NewFile(uintptr(fds[1]), name)
	defer func() { _ = theirs.Close() }() // the helper has it
	attr := &os.ProcAttr{Env: []string{}, Dir: "/", Sys: &syscall.SysProcAttr{Setsid: true}, Files: []*os.File{nil, nil, os.Stderr, theirs}}
	program := selfExe
	if stage != nil {
		program = fmt.Sprintf("/proc/self/fd/%d", deskFD+1)
		attr.Files = append(attr.Files, stage)
	}
	proc, err = startProcess(program, []string{name, view}, attr)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start %s: %w", name, err), desk.Close())
	}
	return proc, desk, nil
}

// close ends the clerk.
func (c *clerk) close() error {
	if err := errors.Join(c.proc.end(), c.desk.Close()); err != nil {
		return fmt.Errorf("end the clerk: %w", err)
	}
	return nil
}

// run has an errand done, with data, about who asks through the listener, and returns what
// was read. An errno is what the program is to be told; any other error says that there is
// no clerk any more.
func (c *clerk) run(e errand, data []byte, listener *seccomp.Listener) ([]byte, error) {
	raw, err := binary.Append(nil, binary.LittleEndian, e)
	if err != nil {
		return nil, err
	}
	err = listener.Lend(func(fd int) error {
		return unix.Sendmsg(int(c.desk.Fd()), append(raw, data...), unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)
	})
	if err != nil {
		return nil, fmt.Errorf("ask the clerk: %v", err) // not an errno for the program
	}
	buf := make([]byte, 4+e.Length)
	n, _, _, _, err := recvmsg(int(c.desk.Fd()), buf, nil, 0)
	if err != nil {
		return nil, fmt.Errorf("hear from the clerk: %v", err)
	}
	if n < 4 {
		return nil, errors.New("the clerk has gone")
	}
	if errno := unix.Errno(binary.LittleEndian.Uint32(buf)); errno != 0 {
		return nil, errno
	}
	return bytes.Clone(buf[4:n]), nil
}

// recvmsg is that of a socket that blocks, again if Go's signals interrupt it.
func recvmsg(fd int, buf, oob []byte, how int) (n, oobn, flags int, from unix.Sockaddr, err error) {
	for {
		n, oobn, flags, from, err = unix.Recvmsg(fd, buf, oob, how|unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			return n, oobn, flags, from, err
		}
	}
}
