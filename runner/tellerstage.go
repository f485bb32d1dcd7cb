package runner

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// counter is what the teller works with.
type counter struct{ major, minor uint32 } // the device of the view

// tellerStage is all that the teller does. It does not return.
func tellerStage() {
	if err := serveCounter(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "varve: teller:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveCounter(view string) error {
	var st unix.Stat_t
	if err := at.Stat(at.CWD, view, &st); err != nil {
		return err
	}
	c := &counter{unix.Major(st.Dev), unix.Minor(st.Dev)}
	buf, oob := make([]byte, 16), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := recvmsg(deskFD, buf, oob, 0)
		if err != nil || n == 0 { // the caller has gone
			return err
		}
		line, err := receivedFile(oob[:oobn])
		if err != nil {
			return err
		}
		go c.serve(line)
	}
}

// serve is a thread that stops others, one at a time: all requests of ptrace(2) come from the
// thread that began.
func (c *counter) serve(line *os.File) {
	runtime.LockOSThread()
	defer func() { _ = line.Close() }() // the caller has gone
	for {
		f, err := nextFact(line, 0)
		if err != nil {
			return
		}
		c.tell(line, f)
	}
}

// nextFact reads what comes over a line.
func nextFact(line *os.File, flags int) (f fact, err error) {
	buf := make([]byte, 64)
	n, _, _, _, err := recvmsg(int(line.Fd()), buf, nil, flags)
	if err == nil {
		_, err = binary.Decode(buf[:n], binary.LittleEndian, &f) // EOF at the end
	}
	return f, err
}

// tell stops a thread when its call has ended, and lets it go on.
func (c *counter) tell(line *os.File, f fact) {
	tid := int(f.TID)
	if err := ptrace(unix.PTRACE_SEIZE, tid, 0); err != nil { // somebody else traces it
		say(line, tellReady, tellDone)
		return
	}
	_ = ptrace(unix.PTRACE_INTERRUPT, tid, 0) // or it has been killed
	say(line, tellReady)
	sig, stopped := awaitStop(tid)
	if stopped {
		for err := error(nil); err == nil; f, err = nextFact(line, unix.MSG_DONTWAIT) {
			c.write(f)
		}
	}
	say(line, tellDone)
	if stopped && ptrace(unix.PTRACE_DETACH, tid, uintptr(sig)) != nil { // it was killed: who traced it has to wait for it
		awaitStop(tid)
	}
}

func say(line *os.File, what ...byte) {
	_ = unix.Sendmsg(int(line.Fd()), what, nil, nil, unix.MSG_NOSIGNAL) // the caller may have gone
}

// awaitStop waits until the thread stops; sig is what it then has to get. It is false if the
// thread has ended.
func awaitStop(tid int) (sig unix.Signal, stopped bool) {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(tid, &status, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
		case err != nil || !status.Stopped():
			return 0, false
		case status>>16 != 0: // an event: that of PTRACE_INTERRUPT, or all of the process is stopped
			return 0, true
		default:
			return status.StopSignal(), true
		}
	}
}

func ptrace(request, tid int, data uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), 0, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// write puts the owner into the struct, if that is about the file. The thread stands still, and
// it is its memory that is written.
func (c *counter) write(f fact) {
	tid := int(f.TID)
	offset := unsafe.Offsetof(unix.Stat_t{}.Uid)
	size := unsafe.Sizeof(unix.Stat_t{})
	if f.Extended != 0 {
		offset, size = unsafe.Offsetof(unix.Statx_t{}.Uid), unsafe.Sizeof(unix.Statx_t{})
	}
	raw, err := readMemory(tid, f.Address, int(size))
	if err != nil || !c.isAbout(raw, f) {
		return
	}
	owner := binary.LittleEndian.AppendUint32(nil, f.UID)                                          // the group comes next in both
	_ = writeMemory(tid, f.Address+uint64(offset), binary.LittleEndian.AppendUint32(owner, f.GID)) // it could be read
}

// isAbout compares device and inode.
func (c *counter) isAbout(raw []byte, f fact) bool {
	if f.Extended != 0 {
		st := (*unix.Statx_t)(unsafe.Pointer(&raw[0]))
		return st.Ino == f.Ino && st.Dev_major == c.major && st.Dev_minor == c.minor
	}
	st := (*unix.Stat_t)(unsafe.Pointer(&raw[0]))
	return st.Ino == f.Ino && unix.Major(st.Dev) == c.major && unix.Minor(st.Dev) == c.minor
}
