package runner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A link is one end of the socket between Start and the init stage. The stage
// sends messages: one byte that says what it is, then text. End of file after
// msgReady means that execve has succeeded, as it closes the stage's end.
type link struct{ file *os.File }

const (
	msgConsole       = 'c' // carries the terminal's master side
	msgReady         = 'r' // the next thing is execve, of this program
	msgExecFailed    = 'f' // which gave this errno: four bytes
	msgListener      = 'l' // carries what the program's system calls are asked about
	msgGathered      = 'g' // said by the parent: it knows how to find the processes of the container
	msgUser          = 'u' // who the program is to take itself for; the parent says it, too, when that is noted
	msgNotFound      = 'n'
	msgNotExecutable = 'x'
	msgError         = 'e'
)

// maxMessage is more than any sentence; what is longer is cut.
const maxMessage = 32 << 10

var errSilent = errors.New("the container's init stage ended before it ran the program")

// initError is an error of the init stage, with its sentence and its kind.
type initError struct {
	text string
	kind error // ErrNotFound, ErrNotExecutable or nil
}

func (e *initError) Error() string { return e.text }
func (e *initError) Unwrap() error { return e.kind }

func newLink() (ours, theirs *link, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	ours = &link{os.NewFile(uintptr(fds[0]), "varve-control")}
	theirs = &link{os.NewFile(uintptr(fds[1]), "varve-control")}
	return ours, theirs, nil
}

func (l *link) close() { _ = l.file.Close() } // a socket: nothing is written back

// hearing is what becomes of messages that are for a [Pretence].
type hearing struct {
	introduce func(who string) error
	answer    func(listener *os.File) // keeps it
}

// awaitExec reads messages until the stage has become the program, or failed.
func (l *link) awaitExec(to hearing) (console *os.File, err error) {
	ready, program := false, ""
	for {
		kind, text, file, err := l.receive()
		if err == nil && kind == 0 && !ready {
			err = errSilent
		}
		if err == nil && kind == msgExecFailed && len(text) == 4 {
			err = execError(program, unix.Errno(binary.LittleEndian.Uint32([]byte(text))))
		}
		if err == nil && (kind == msgNotFound || kind == msgNotExecutable || kind == msgError) {
			err = &initError{text: text, kind: map[byte]error{
				msgNotFound: ErrNotFound, msgNotExecutable: ErrNotExecutable}[kind]}
		}
		if err == nil && kind == msgUser {
			if err = to.introduce(text); err == nil {
				err = l.send(msgUser, "", -1)
			}
		}
		if err != nil {
			if console != nil {
				_ = console.Close() // the terminal goes with the failed container
			}
			return nil, err
		}
		switch kind {
		case 0:
			return console, nil
		case msgReady:
			ready, program = true, text
		case msgConsole:
			console = file
		case msgListener:
			to.answer(file)
		}
	}
}

// receive returns the next message; kind 0 is the end.
func (l *link) receive() (kind byte, text string, file *os.File, err error) {
	buf, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := recvmsg(int(l.file.Fd()), buf, oob, 0)
	if err == unix.ECONNRESET { // it was killed with our end unread
		n, err = 0, nil
	}
	if err != nil {
		return 0, "", nil, fmt.Errorf("hear from the container's init stage: %w", err)
	}
	if n == 0 {
		return 0, "", nil, nil
	}
	if oobn > 0 {
		if file, err = receivedFile(oob[:oobn]); err != nil {
			return 0, "", nil, err
		}
	}
	return buf[0], string(buf[1:n]), file, nil
}

func receivedFile(oob []byte) (*os.File, error) {
	files, err := receivedFiles(oob)
	if err != nil || len(files) != 1 {
		closeFiles(files)
		return nil, fmt.Errorf("receive the terminal: %d descriptors: %w", len(files), err)
	}
	return files[0], nil // non-blocking as the stage opened it, so it goes to the poller
}

// receivedFiles are the descriptors that came with a message, also some after an error.
func receivedFiles(oob []byte) (files []*os.File, err error) {
	list, err := unix.ParseSocketControlMessage(oob)
	for _, m := range list {
		fds, parseErr := unix.ParseUnixRights(&m)
		err = errors.Join(err, parseErr)
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, err
}

// closeFiles closes what somebody else has, or nobody wants.
func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // nothing was written
	}
}

// send is the stage's side: message kind with text, and fd unless it is -1.
func (l *link) send(kind byte, text string, fd int) error {
	msg := append([]byte{kind}, text...)
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	err := unix.Sendmsg(int(l.file.Fd()), msg[:min(len(msg), maxMessage)], oob, nil, unix.MSG_NOSIGNAL)
	if err != nil {
		return fmt.Errorf("tell the parent: %w", err)
	}
	return nil
}

// awaitGathered waits until the parent knows how to find the processes of this container, which
// end with it: a short program would have ended before.
func (l *link) awaitGathered() error {
	kind, _, _, err := l.receive()
	if err == nil && kind != msgGathered {
		err = errors.New("the supervisor has died")
	}
	return err
}

// fail tells the parent why there will be no container.
func (l *link) fail(cause error) error {
	kind := byte(msgError)
	switch {
	case errors.Is(cause, ErrNotFound):
		kind = msgNotFound
	case errors.Is(cause, ErrNotExecutable):
		kind = msgNotExecutable
	}
	return l.send(kind, strings.ToValidUTF8(cause.Error(), "?"), -1)
}

// parentIsGone tells whether the other end is closed, which only its death does.
func (l *link) parentIsGone() (bool, error) {
	fds := []unix.PollFd{{Fd: int32(l.file.Fd()), Events: unix.POLLIN | unix.POLLRDHUP}}
	for {
		_, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("poll: %w", err)
		}
		return fds[0].Revents&(unix.POLLHUP|unix.POLLRDHUP) != 0, nil
	}
}
