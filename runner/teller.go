package runner

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/seccomp"
)

// The kernel can show no owner but root where there is a single id. So stat(2) of a file that
// is somebody else's is put right behind it. The kernel keeps no attributes of such a file, so
// it asks the view each time; the view says so to [Pretence.Tell] before it answers, and that
// has the teller, a process of its own, stop the thread on its way back from the call, write the owner
// into the struct that it asked for, and let it go. Nobody asks about other files, and no path
// is walked: the kernel has done it.

// tellerName is argv[0] of the teller.
const tellerName = "varve-teller"

// tellPatience is how long a thread waits for the teller at most, and tellGlance how long until it
// is looked at: while another thread of its process is in execve(2), which ends it, the kernel
// lets nobody stop it.
const (
	tellPatience = 2 * time.Second
	tellGlance   = 5 * time.Millisecond
)

// A fact is what a thread is to be told of a file. It is sent over a line to a thread of the
// teller, who answers tellReady when the view may answer, and tellDone when it has been told.
type fact struct {
	Address  uint64 // of the struct in its memory
	Ino      uint64
	TID      uint32
	UID, GID uint32
	Extended uint32 // 1: it is a struct statx
}

const (
	tellReady = 'r'
	tellDone  = 'd'
)

// Tell has a thread of a program that waits for the view's answer about a file told its
// owner, if it asked by a call of the family of stat(2).
func (p *Pretence) Tell(pid uint32, ino uint64, uid, gid uint32) {
	f := fact{TID: pid, Ino: ino, UID: uid, GID: gid}
	if pid == 0 || !p.asksOwner(&f) || !p.isInside(pid) {
		return
	}
	if err := p.teller.tell(f); err != nil {
		fmt.Fprintln(os.Stderr, "varve:", err)
	}
}

// asksOwner tells whether a thread is in a call of the family of stat, and where it wants its
// answer.
func (p *Pretence) asksOwner(f *fact) bool {
	name, args := p.callOf(f.TID)
	index := 1
	switch name {
	case "stat", "lstat", "fstat":
	case "newfstatat", "fstatat":
		index = 2
	case "statx":
		index, f.Extended = 4, 1
	default:
		return false
	}
	f.Address = args[index]
	return true
}

// callOf reads which system call a thread waits in: proc_pid_syscall(5).
func (p *Pretence) callOf(tid uint32) (name string, args [6]uint64) {
	fields := strings.Fields(syscallOf(tid))
	if len(fields) < 7 {
		return "", args
	}
	number, err := strconv.ParseInt(fields[0], 10, 32)
	for i := range args {
		if err == nil {
			args[i], err = strconv.ParseUint(fields[1+i], 0, 64)
		}
	}
	if err != nil {
		return "", args
	}
	return p.stats()[int32(number)], args
}

// syscallOf waits until the thread does, as it will soon.
func syscallOf(tid uint32) string {
	buf := make([]byte, 256)
	for begin := time.Now(); time.Since(begin) < tellPatience; {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/syscall", tid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return ""
		}
		n, err := unix.Read(fd, buf)
		_ = unix.Close(fd) // only read
		if err != nil || n <= 0 {
			return ""
		}
		if text := string(buf[:n]); !strings.HasPrefix(text, "running") {
			return text
		}
		runtime.Gosched()
	}
	return ""
}

// isInside tells whether a thread is one of the container: in a pid namespace below ours.
func (p *Pretence) isInside(pid uint32) bool {
	its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	return err == nil && p.pidns() != its
}

// ownPidns names the pid namespace of this process, "" if that can not be read.
func ownPidns() string {
	name, _ := os.Readlink("/proc/self/ns/pid") // then all are inside
	return name
}

// statCalls are the calls of the family of stat, by number.
func statCalls() map[int32]string {
	return seccomp.Numbered("stat", "lstat", "fstat", "newfstatat", "fstatat", "statx")
}

// teller is the caller's side.
type teller struct {
	view  string
	stage *os.File

	mu   sync.Mutex // guards both below, and all of now
	now  *window    // nil until it is needed
	over bool
}

// window is where one teller is to be reached.
type window struct {
	proc *process
	desk *os.File
	idle []*line
	busy map[uint32]*line // by the thread that they are about
}

// line leads to a thread of the teller's.
type line struct {
	file *os.File
	conn syscall.RawConn
	// begun: who has it from lineFor has heard that the teller is ready, or waits for that no
	// more. Until then nobody else may listen, who would take the word from him.
	begun bool
}

// tell has the teller stop a thread, and returns when the view may answer it; another teller,
// if that has been killed for want of memory.
func (t *teller) tell(f fact) (err error) {
	for range 2 {
		w, l, fresh, startErr := t.lineFor(f.TID)
		if startErr != nil {
			return fmt.Errorf("the teller: %w", startErr)
		}
		if err = l.send(f); err == nil && fresh { // else it is to stop already: it has come past a directory
			err = t.await(l, f.TID)
		}
		if err == nil {
			return nil
		}
		err = fmt.Errorf("the teller: %w", errors.Join(err, t.dismiss(w)))
	}
	return err
}

// dismiss ends a teller that can not be heard.
func (t *teller) dismiss(w *window) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now != w { // somebody else has done it
		return nil
	}
	t.now = nil
	return w.close()
}

// await waits until the teller is ready. That it can not be in time is no error.
func (t *teller) await(l *line, tid uint32) error {
	said, err := "", error(unix.EAGAIN)
	for begin := time.Now(); err == unix.EAGAIN && time.Since(begin) < tellPatience; {
		if said, err = l.hear(0); err == unix.EAGAIN && isKilled(tid) {
			break
		}
	}
	if err != nil && err != unix.EAGAIN {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l.begun = true
	t.now.note(tid, l, said)
	return nil
}

// isKilled tells whether a thread has SIGKILL before it.
func isKilled(tid uint32) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(raw), "\nSigPnd:\t")
	mask, err := strconv.ParseUint(strings.SplitN(rest, "\n", 2)[0], 16, 64)
	return err != nil || mask&(1<<(unix.SIGKILL-1)) != 0
}

// lineFor finds a line for a thread; fresh says that the teller does not know of it yet.
func (t *teller) lineFor(tid uint32) (w *window, l *line, fresh bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return nil, nil, false, os.ErrClosed
	}
	if t.now == nil {
		proc, desk, err := startHelper(tellerName, t.view, t.stage)
		if err != nil {
			return nil, nil, false, err
		}
		t.now = &window{proc: proc, desk: desk, busy: map[uint32]*line{}}
	}
	l, fresh, err = t.now.lineFor(tid)
	return t.now, l, fresh, err
}

// close ends the teller, if there is one.
func (t *teller) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	if t.now == nil {
		return nil
	}
	w := t.now
	t.now = nil
	return w.close()
}

func (w *window) lineFor(tid uint32) (l *line, fresh bool, err error) {
	for other, l := range w.busy {
		if !l.begun {
			continue
		}
		if said, err := l.hear(unix.MSG_DONTWAIT); err == nil {
			w.note(other, l, said)
		}
	}
	if l := w.busy[tid]; l != nil {
		return l, false, nil
	}
	if n := len(w.idle); n > 0 {
		l, w.idle = w.idle[n-1], w.idle[:n-1]
	} else if l, err = w.newLine(); err != nil {
		return nil, false, err
	}
	l.begun = false
	w.busy[tid] = l
	return l, true, nil
}

// note takes back a line whose thread has been told.
func (w *window) note(tid uint32, l *line, said string) {
	if w != nil && strings.IndexByte(said, tellDone) >= 0 && w.busy[tid] == l {
		delete(w.busy, tid)
		w.idle = append(w.idle, l)
	}
}

func (w *window) newLine() (*line, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	defer func() { _ = unix.Close(fds[1]) }() // the teller has it
	l := &line{file: os.NewFile(uintptr(fds[0]), "line")}
	glance := unix.NsecToTimeval(tellGlance.Nanoseconds())
	err = unix.SetsockoptTimeval(fds[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &glance)
	if err == nil {
		err = unix.Sendmsg(int(w.desk.Fd()), []byte{0}, unix.UnixRights(fds[1]), nil, unix.MSG_NOSIGNAL)
	}
	if err == nil {
		l.conn, err = l.file.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(err, l.file.Close())
	}
	return l, nil
}

// close ends the teller, and all that leads to it.
func (w *window) close() error {
	err := errors.Join(w.proc.end(), w.desk.Close())
	for _, l := range slices.AppendSeq(w.idle, maps.Values(w.busy)) {
		err = errors.Join(err, l.file.Close()) // who waits at it hears that nobody is there
	}
	return err
}

func (l *line) send(f fact) error {
	raw, err := binary.Append(nil, binary.LittleEndian, f)
	if err != nil {
		return err
	}
	ctlErr := l.conn.Control(func(fd uintptr) { err = unix.Sendto(int(fd), raw, unix.MSG_NOSIGNAL, nil) })
	return errors.Join(ctlErr, err)
}

// hear reads what a line has, unix.EAGAIN if that is nothing in the time of a glance.
func (l *line) hear(flags int) (said string, err error) {
	buf, n := make([]byte, 16), 0
	ctlErr := l.conn.Control(func(fd uintptr) { n, _, _, _, err = recvmsg(int(fd), buf, nil, flags) })
	if err == nil && n == 0 {
		err = io.EOF
	}
	if ctlErr != nil || err != nil {
		return "", cmp.Or(ctlErr, err)
	}
	return string(buf[:n]), nil
}
