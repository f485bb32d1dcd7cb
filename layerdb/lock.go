package layerdb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// storeLock is store.lock, held. The kernel drops it when the process ends.
type storeLock struct{ fd int }

// release lets go of the lock; closing the only descriptor does it.
func (l storeLock) release() { _ = unix.Close(l.fd) } // nothing was written to it

// lock takes store.lock, shared (LOCK_SH) for readers or alone (LOCK_EX). It
// tries again after 1 to 20 ms at random until the deadline, so that a crowd of
// processes does not move in step.
func (s *Store) lock(how int) (storeLock, error) {
	fd, err := s.openLock()
	if err != nil {
		return storeLock{}, fmt.Errorf("open store: %w", err)
	}
	deadline := time.Now().Add(s.opt.LockTimeout)
	for {
		err := unix.Flock(fd, how|unix.LOCK_NB)
		if err == nil {
			return storeLock{fd}, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			_ = unix.Close(fd) // nothing was written to it
			return storeLock{}, s.lockError(err)
		}
		if time.Now().After(deadline) {
			err := s.busyError(fd)
			_ = unix.Close(fd) // nothing was written to it
			return storeLock{}, err
		}
		time.Sleep(time.Millisecond + rand.N(19*time.Millisecond))
	}
}

func (s *Store) openLock() (int, error) {
	if s.opt.ReadOnly {
		return at.Open(at.CWD, s.path(lockName), unix.O_RDONLY, 0)
	}
	return at.Open(at.CWD, s.path(lockName), unix.O_RDWR|unix.O_CREAT, 0o600)
}

// lockError says what to do where flock does not work, as on some network file
// systems.
func (s *Store) lockError(err error) error {
	if errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("store %s: its file system has no flock (%w); put the store on a local disk with --root", s.root, err)
	}
	return fmt.Errorf("store %s: flock: %w", s.root, err)
}

func (s *Store) busyError(fd int) error {
	who := "another process"
	if pid := holder(fd); pid > 0 {
		who = fmt.Sprintf("process %d (%s)", pid, command(pid))
	}
	return fmt.Errorf("store %s: %w: held by %s, waited %s; try again when it has ended",
		s.root, ErrBusy, who, s.opt.LockTimeout)
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
