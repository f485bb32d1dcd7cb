package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/layerdb"
)

// lockName is a file that is locked around what may be done once at a time with a
// container: to start it, and to remove it.
const lockName = "lock"

// A containerLock is held until release, or the end of the process.
type containerLock struct{ fd int }

// file is the lock for a process that is to hold it as well. The caller closes it.
func (l *containerLock) file() (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(l.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("lock the container: dup: %w", err)
	}
	return os.NewFile(uintptr(fd), lockName), nil
}

func (l *containerLock) release() { _ = unix.Close(l.fd) } // empty; this drops the lock

// lockContainer waits until nobody else starts or removes the container.
func (e *Engine) lockContainer(id string) (*containerLock, error) {
	dir, err := at.OpenDir(at.CWD, e.store.ContainerDir(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", layerdb.ErrNoSuchContainer, id)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(dir) }() // only read
	fd, err := at.Open(dir, lockName, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the container: %w", err)
	}
	l := &containerLock{fd}
	err = unix.EINTR
	for err == unix.EINTR {
		err = unix.Flock(fd, unix.LOCK_EX)
	}
	if err != nil {
		l.release()
		return nil, fmt.Errorf("lock the container: flock: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink == 0 {
		l.release()
		return nil, errors.Join(err, fmt.Errorf("%w: %s", layerdb.ErrNoSuchContainer, id)) // removed meanwhile
	}
	return l, nil
}
