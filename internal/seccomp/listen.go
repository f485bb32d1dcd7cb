package seccomp

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LoadListened is Load of a filter that asks: the descriptor is for who is to answer, by
// [NewListener]. EBUSY says that somebody listens to this process already.
func (p Program) LoadListened() (fd int, err error) {
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	// Once a call is being answered only a signal that kills ends it, so that it is not
	// begun again behind the back of who answers.
	for _, more := range []uintptr{unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 0} { // since Linux 5.19
		n, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
			unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|more, uintptr(unsafe.Pointer(&prog)))
		runtime.KeepAlive(p)
		if errno == 0 {
			return int(n), nil
		}
		if err = errno; errno != unix.EINVAL {
			break
		}
	}
	return -1, fmt.Errorf("load the seccomp filter: %w", err)
}

// A Question is a system call that waits for an answer: struct seccomp_notif.
type Question struct {
	ID   uint64 // of this call, and never of a later one
	PID  uint32 // the thread that makes it, in the pid namespace of who listens
	_    uint32
	Call int32 // its number
	_    uint32
	_    uint64
	Args [6]uint64
}

// answer is struct seccomp_notif_resp.
type answer struct {
	id    uint64
	value int64
	error int32 // negative
	flags uint32
}

// A Listener answers the calls that a filter asks about. Next is for one goroutine, all
// else for several.
type Listener struct {
	file *os.File
	conn interface {
		Read(func(fd uintptr) bool) error
		Control(func(fd uintptr)) error
	}
}

// NewListener takes over what [Program.LoadListened] gave.
func NewListener(passed *os.File) (*Listener, error) {
	fd, err := unix.FcntlInt(passed.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true) // so that a new file of it goes to the poller
	}
	if err = errors.Join(err, passed.Close()); err != nil {
		return nil, fmt.Errorf("seccomp listener: %w", err)
	}
	file := os.NewFile(uintptr(fd), "seccomp-listener")
	conn, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("seccomp listener: %w", err), file.Close())
	}
	return &Listener{file, conn}, nil
}

// Close has all calls that wait, and those that come, fail with ENOSYS.
func (l *Listener) Close() error { return l.file.Close() }

// Next waits for a question; io.EOF says that nobody is left who could ask.
func (l *Listener) Next() (q Question, err error) {
	waitErr := l.conn.Read(func(fd uintptr) bool {
		var ready bool
		ready, err = receive(int(fd), &q)
		return ready
	})
	if waitErr != nil {
		return q, fmt.Errorf("seccomp listener: %w", waitErr)
	}
	return q, err
}

// receive reads a question, if there is one.
func receive(fd int, q *Question) (ready bool, err error) {
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, 0); err != nil && err != unix.EINTR {
			return true, fmt.Errorf("seccomp listener: %w", err)
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			if poll[0].Revents&unix.POLLHUP != 0 {
				return true, io.EOF
			}
			return false, nil
		}
		*q = Question{} // the kernel wants zeros
		err := control(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(q))
		switch err {
		case nil:
			return true, nil
		case unix.ENOENT, unix.EINTR: // who asked was killed meanwhile
		default:
			return true, fmt.Errorf("seccomp listener: %w", err)
		}
	}
}

func control(fd int, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// Answer has the call return value, or fail if errno is not 0. Who has been killed is not
// there any more to be answered, which is no error.
func (l *Listener) Answer(q *Question, value int64, errno unix.Errno) error {
	if errno != 0 {
		value = 0
	}
	return l.answer(&answer{id: q.ID, value: value, error: -int32(errno)})
}

// Pass has the kernel make the call.
func (l *Listener) Pass(q *Question) error {
	return l.answer(&answer{id: q.ID, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE})
}

func (l *Listener) answer(a *answer) error {
	var err error
	ctlErr := l.conn.Control(func(fd uintptr) {
		err = control(int(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(a))
	})
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	if err = errors.Join(ctlErr, err); err != nil {
		return fmt.Errorf("seccomp listener: answer: %w", err)
	}
	return nil
}

// Lend has the descriptor passed to another process, for [Waits].
func (l *Listener) Lend(pass func(fd int) error) error {
	var err error
	ctlErr := l.conn.Control(func(fd uintptr) { err = pass(int(fd)) })
	return errors.Join(ctlErr, err)
}

// Waits tells whether a question still waits for its answer: then what was found by its
// PID until now is that of who asks.
func Waits(listener int, id uint64) bool {
	const valid = 0x40082102 // SECCOMP_IOCTL_NOTIF_ID_VALID
	return control(listener, valid, unsafe.Pointer(&id)) == nil
}
