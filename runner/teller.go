package runner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
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

	mu   sync.Mutex  // guards all below
	proc *os.Process // nil until it is needed
	desk *os.File
	idle []int          // lines
	busy map[uint32]int // lines, by the thread that they are about
	over bool
}

// tell has the teller stop a thread, and returns when the view may answer it.
func (t *teller) tell(f fact) error {
	line, fresh, err := t.lineOf(f.TID)
	if err != nil {
		return err
	}
	raw, err := binary.Append(nil, binary.LittleEndian, f)
	if err != nil {
		return err
	}
	if err := unix.Sendto(line, raw, unix.MSG_NOSIGNAL, nil); err != nil {
		return t.hangUp(fmt.Errorf("ask the teller: %w", err))
	}
	if !fresh { // it is to stop already: it has come past a directory on its way
		return nil
	}
	for begin := time.Now(); time.Since(begin) < tellPatience; {
		said, err := hear(line, 0)
		switch {
		case said != "":
			t.note(f.TID, line, said)
			return nil
		case err == nil:
			return t.hangUp(errors.New("the teller has gone"))
		case err != unix.EAGAIN:
			return t.hangUp(fmt.Errorf("hear from the teller: %w", err))
		case isKilled(f.TID):
			return nil
		}
	}
	return nil
}

// hear reads what a line has; EAGAIN says that there is nothing, "" that nobody is there.
func hear(line, flags int) (string, error) {
	buf := make([]byte, 16)
	n, _, _, _, err := recvmsg(line, buf, nil, flags)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
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

// lineOf is the line for a thread; fresh says that the teller does not know of it yet.
func (t *teller) lineOf(tid uint32) (line int, fresh bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return -1, false, os.ErrClosed
	}
	for other, line := range t.busy {
		if said, err := hear(line, unix.MSG_DONTWAIT); err == nil {
			t.noteLocked(other, line, said)
		}
	}
	if line, busy := t.busy[tid]; busy {
		return line, false, nil
	}
	if n := len(t.idle); n > 0 {
		line, t.idle = t.idle[n-1], t.idle[:n-1]
	} else if line, err = t.newLineLocked(); err != nil {
		return -1, false, err
	}
	t.busy[tid] = line
	return line, true, nil
}

func (t *teller) note(tid uint32, line int, said string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.noteLocked(tid, line, said)
}

// noteLocked takes back a line whose thread has been told.
// Preconditions: t.mu is held.
func (t *teller) noteLocked(tid uint32, line int, said string) {
	if strings.IndexByte(said, tellDone) >= 0 && t.busy[tid] == line {
		delete(t.busy, tid)
		t.idle = append(t.idle, line)
	}
}

// newLineLocked makes one more line, to a teller that is started where there is none.
// Preconditions: t.mu is held.
func (t *teller) newLineLocked() (int, error) {
	if t.proc == nil {
		proc, desk, err := startHelper(tellerName, t.view, t.stage)
		if err != nil {
			return -1, err
		}
		t.proc, t.desk, t.busy = proc, desk, map[uint32]int{}
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socketpair: %w", err)
	}
	defer func() { _ = unix.Close(fds[1]) }() // the teller has it
	glance := unix.NsecToTimeval(tellGlance.Nanoseconds())
	err = unix.SetsockoptTimeval(fds[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &glance)
	if err == nil {
		err = unix.Sendmsg(int(t.desk.Fd()), []byte{0}, unix.UnixRights(fds[1]), nil, unix.MSG_NOSIGNAL)
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("ask the teller: %w", err), unix.Close(fds[0]))
	}
	return fds[0], nil
}

// hangUp ends a teller that can not be heard; another one comes with the next fact.
func (t *teller) hangUp(cause error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return errors.Join(cause, t.dismissLocked())
}

// close ends the teller, if there is one.
func (t *teller) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	return t.dismissLocked()
}

// dismissLocked closes all that leads to the teller, which ends it.
// Preconditions: t.mu is held.
func (t *teller) dismissLocked() error {
	if t.proc == nil {
		return nil
	}
	err := t.proc.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	_, waitErr := t.proc.Wait()
	err = errors.Join(err, waitErr, t.desk.Close())
	for _, line := range t.idle {
		err = errors.Join(err, unix.Close(line))
	}
	for _, line := range t.busy {
		err = errors.Join(err, unix.Close(line))
	}
	t.proc, t.desk, t.idle, t.busy = nil, nil, nil, nil
	if err != nil {
		return fmt.Errorf("end the teller: %w", err)
	}
	return nil
}
