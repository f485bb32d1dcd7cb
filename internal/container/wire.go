package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A Wire is one end of the connection between a verb and a supervisor: requests
// one way, replies the other, each a line of JSON, and descriptors that go with it.
// Sending may be done by several goroutines, receiving by one.
type Wire struct {
	conn *net.UnixConn

	mu sync.Mutex // held while a line is sent

	pending []byte     // received, and not yet a whole line
	files   []*os.File // received, and not yet taken by a line
}

// longestLine is more than any command line that execve(2) takes.
const longestLine = 4 << 20

// mostFiles come with one line.
const mostFiles = 4

// A Request is what a verb asks of a supervisor.
type Request struct {
	Do     string       `json:"do"`
	Files  int          `json:"files,omitempty"` // descriptors that come with it
	Attach *Attachment  `json:"attach,omitempty"`
	Stop   *StopOptions `json:"stop,omitempty"`
	Exec   *Execution   `json:"exec,omitempty"`
	Copy   *CopyOrder   `json:"copy,omitempty"`
	Signal unix.Signal  `json:"signal,omitempty"`
	Ack    bool         `json:"ack,omitempty"` // answer when the signal is sent
	// Restore says that the last descriptor is the terminal of the one who asks, to be put
	// back to how it is should he vanish.
	Restore bool `json:"restore,omitempty"`
	// Await says that the program must not run before the word that its container is
	// recorded; if the connection ends instead there will be no container.
	Await bool `json:"await,omitempty"`
}

// What can be asked.
const (
	DoBegin    = "begin"    // of the one who started the supervisor only, and the first thing
	DoRecorded = "recorded" // of the same one, if he has said that it would come
	DoAttach   = "attach"
	DoSignal   = "signal"
	DoStop     = "stop" // answered when the container has ended
	DoWait     = "wait" // likewise
	DoBye      = "bye"  // he will hang up now, and has put his terminal back himself
	DoExec     = "exec" // answered when the program has started, and when it has ended

	DoHold    = "hold" // answered when all programs stand still, which they do until he lets go or hangs up
	DoRelease = "release"

	// of a supervisor: with the descriptors of a courier, which it is to start; answered when
	// that has ended. Of a courier: the order.
	DoCopy = "copy"
)

// A Reply tells what has come of a request.
type Reply struct {
	Event string `json:"event"`
	Files int    `json:"files,omitempty"`
	Code  int    `json:"code,omitempty"`  // of a container that has ended
	Error string `json:"error,omitempty"` // why it could not be done, in sentences; or the warning
	Stage int    `json:"stage,omitempty"` // the exit code of what could not be started

	Copy *CopyReply `json:"copy,omitempty"` // of a courier
}

// What can come of it.
const (
	EventDone    = "done"
	EventStarted = "started" // or attached; with the terminal, or stdin
	EventEnded   = "ended"
	EventFailed  = "failed"
	EventWarning = "warning" // before the program starts: what it has to do without
)

// NewWire makes a wire of a connected socket, which is its from then on.
func NewWire(f *os.File) (*Wire, error) {
	conn, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("control connection: %w", err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("control connection: not a unix socket"), conn.Close())
	}
	return &Wire{conn: unixConn}, nil
}

// WirePair makes a connection: our end, and the one for a process that is started, which
// the caller closes.
func WirePair() (ours *Wire, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "control")
	ours, err = NewWire(os.NewFile(uintptr(fds[0]), "control"))
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

// Send sends a line; files stay the caller's.
func (w *Wire) Send(line any, files ...*os.File) error {
	raw, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("control connection: %w", err)
	}
	raw = append(raw, '\n')
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			if fds[i], err = FileNumber(f); err != nil {
				return fmt.Errorf("control connection: %w", err)
			}
		}
		rights = unix.UnixRights(fds...)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	n, _, err := w.conn.WriteMsgUnix(raw, rights, nil)
	if err == nil && n < len(raw) {
		_, err = w.conn.Write(raw[n:])
	}
	if err != nil {
		return fmt.Errorf("control connection: %w", ErrnoIn(err))
	}
	return nil
}

// ReceiveRequest returns the next request and its files; io.EOF is the end.
func (w *Wire) ReceiveRequest() (r Request, files []*os.File, err error) {
	if err = w.receive(&r); err == nil {
		files, err = w.take(r.Files)
	}
	return r, files, err
}

// ReceiveReply returns the next reply and its files; io.EOF is the end.
func (w *Wire) ReceiveReply() (r Reply, files []*os.File, err error) {
	if err = w.receive(&r); err == nil {
		files, err = w.take(r.Files)
	}
	return r, files, err
}

func (w *Wire) receive(line any) error {
	for {
		if i := bytes.IndexByte(w.pending, '\n'); i >= 0 {
			err := json.Unmarshal(w.pending[:i], line)
			w.pending = append(w.pending[:0], w.pending[i+1:]...)
			if err != nil {
				return fmt.Errorf("control connection: %w", err)
			}
			return nil
		}
		if len(w.pending) > longestLine {
			return errors.New("control connection: a line without an end")
		}
		if err := w.fill(); err != nil {
			return err
		}
	}
}

// fill receives what is there.
func (w *Wire) fill() error {
	buf, oob := make([]byte, 4<<10), make([]byte, unix.CmsgSpace(4*mostFiles))
	n, oobn, _, _, err := w.conn.ReadMsgUnix(buf, oob)
	if errors.Is(err, unix.ECONNRESET) { // it was killed with lines unread
		err = io.EOF
	}
	if err != nil {
		return err
	}
	w.pending = append(w.pending, buf[:n]...)
	list, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return fmt.Errorf("control connection: %w", err)
	}
	for i := range list {
		fds, err := unix.ParseUnixRights(&list[i])
		if err != nil {
			return fmt.Errorf("control connection: %w", err)
		}
		for _, fd := range fds {
			w.files = append(w.files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return nil
}

// take hands out the next n files that have come.
func (w *Wire) take(n int) ([]*os.File, error) {
	if n < 0 || n > len(w.files) {
		return nil, fmt.Errorf("control connection: %d descriptors were announced, %d have come", n, len(w.files))
	}
	files := w.files[:n:n]
	w.files = w.files[n:]
	return files, nil
}

// HangUp ends both directions, and with it a receive that waits.
func (w *Wire) HangUp() { _ = w.conn.Close() } // nothing is kept back

// Close is HangUp of one that nobody receives from any more.
func (w *Wire) Close() {
	w.HangUp()
	CloseAll(w.files)
}

// FileNumber is the number of an open file. Unlike File.Fd it leaves the file as it
// is, which would have it block from then on.
func FileNumber(f *os.File) (int, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	n := -1
	err = conn.Control(func(fd uintptr) { n = int(fd) })
	return n, err
}

// CloseAll closes files that nothing is written to any more.
func CloseAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close() // a pipe or a terminal keeps nothing back
		}
	}
}

// Ending is how a container has ended.
type Ending struct {
	Code int
	Err  error
}

// Attachment is what a session asks for. Its descriptors are pipes for the streams,
// in their order, then the program's stdin, if that is passed.
type Attachment struct {
	Streams []int `json:"streams,omitempty"`
	Stdin   bool  `json:"stdin,omitempty"`
	// Passed says that the program is to have the caller's own stdin, a pipe.
	Passed bool `json:"passed,omitempty"`
	// Foreground says that a program whose output nobody reads is to be told so.
	Foreground bool   `json:"foreground,omitempty"`
	Columns    uint16 `json:"columns,omitempty"`
	Rows       uint16 `json:"rows,omitempty"`
}

// ErrnoIn is the reason at the bottom of err, whose words name the path once more.
func ErrnoIn(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
