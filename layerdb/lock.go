package layerdb

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// storeLock is store.lock, held. The kernel drops it when the process ends.
type storeLock struct {
	fd int
	// until is closed when the lock may go, where that is after its release;
	// nil: at once.
	until <-chan struct{}
}

// release lets go of the lock; closing the only descriptor does it.
func (l *storeLock) release() {
	if l.until == nil {
		_ = unix.Close(l.fd) // nothing was written to it
		return
	}
	go func() {
		<-l.until
		_ = unix.Close(l.fd) // nothing was written to it
	}()
}

// lock takes store.lock, shared (LOCK_SH) for readers or alone (LOCK_EX), in two
// steps: first the turn, a flock of the root itself that one process has, then
// store.lock, and the turn goes on to another. So a writer that waits for readers
// keeps later ones out, however many come.
func (s *Store) lock(how int) (*storeLock, error) {
	fd, err := s.openLock()
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	turn, err := at.Open(at.CWD, s.Root(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		_ = unix.Close(fd) // nothing was written to it
		return nil, fmt.Errorf("open store: %w", err)
	}
	defer func() { _ = unix.Close(turn) }() // a directory; this drops the turn
	deadline := time.Now().Add(s.opt.LockTimeout)
	got, err := flockUntil(turn, unix.LOCK_EX, deadline)
	if got && err == nil {
		got, err = flockUntil(fd, how, deadline)
	}
	if err != nil {
		err = s.lockError(err)
	} else if !got {
		err = s.busyError(fd, turn)
	}
	if err != nil {
		_ = unix.Close(fd) // nothing was written to it
		return nil, err
	}
	return &storeLock{fd: fd}, nil
}

// flockUntil takes a flock, or returns false at the deadline. The kernel lets those who
// wait in in their order, and wakes nobody else.
func flockUntil(fd, how int, deadline time.Time) (bool, error) {
	err := unix.Flock(fd, how|unix.LOCK_NB)
	if err != unix.EWOULDBLOCK {
		return err == nil, err
	}
	// Who waits can not be called back, so it is a thread with a descriptor of its own of
	// the same open file: should it get the lock too late it lets it go again.
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	got := make(chan error, 1)
	go func() {
		err := unix.Flock(own, how)
		for err == unix.EINTR {
			err = unix.Flock(own, how)
		}
		_ = unix.Close(own) // the lock is that of the open file, which fd has, too
		got <- err
	}()
	late := time.NewTimer(time.Until(deadline))
	defer late.Stop()
	select {
	case err := <-got:
		return err == nil, err
	case <-late.C:
		return false, nil
	}
}

// openLock opens the file, and makes it if it may: a disk that is read-only can be
// read.
func (s *Store) openLock() (int, error) {
	if !s.opt.ReadOnly {
		fd, err := at.Open(at.CWD, s.Path(lockName), unix.O_RDWR|unix.O_CREAT, 0o600)
		if !errors.Is(err, unix.EROFS) {
			return fd, err
		}
	}
	return at.Open(at.CWD, s.Path(lockName), unix.O_RDONLY, 0)
}

// lockError says what to do where flock does not work, as on some network file
// systems.
func (s *Store) lockError(err error) error {
	if errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("store %s: its file system has no flock (%w); put the store on a local disk with --root", s.Root(), err)
	}
	return fmt.Errorf("store %s: flock: %w", s.Root(), err)
}

// busyError names who holds the store or, if it has just been let go, the turn.
func (s *Store) busyError(fd, turn int) error {
	who := "another process"
	if pid := cmp.Or(holder(fd), holder(turn)); pid > 0 {
		who = fmt.Sprintf("process %d (%s)", pid, command(pid))
	}
	return fmt.Errorf("store %s: %w: held by %s, waited %s; try again when it has ended",
		s.Root(), ErrBusy, who, s.opt.LockTimeout)
}

// holder returns a process that holds a flock on the file behind fd, from
// /proc/locks (proc_locks(5)), or 0 if it cannot be seen.
func holder(fd int) int {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }() // read only
	inode := ":" + strconv.FormatUint(st.Ino, 10)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF
		field := strings.Fields(lines.Text())
		if len(field) < 6 || field[1] != "FLOCK" || !strings.HasSuffix(field[5], inode) {
			continue
		}
		if pid, err := strconv.Atoi(field[4]); err == nil && pid > 0 {
			return pid
		}
	}
	return 0
}

// command is the command line of pid, shortened.
func command(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if errors.Is(err, fs.ErrNotExist) || len(raw) == 0 {
		return "ended"
	}
	line := string(bytes.TrimRight(bytes.ReplaceAll(raw, []byte{0}, []byte{' '}), " "))
	if len(line) > 80 {
		line = line[:77] + "..."
	}
	return line
}
