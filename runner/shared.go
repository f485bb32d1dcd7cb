package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// Shared are namespaces of other containers that a container joins, each told by a pidfd of
// a process that is in it, which stays the caller's; nil is none. The caller has to have
// CAP_SYS_ADMIN in the user namespace that it belongs to.
type Shared struct {
	PID, Network *os.File
	// IPC shares message queues, semaphores and /dev/shm.
	IPC *os.File
	// Users is for who has its user namespace, of which Config.UIDs and GIDs are the ids.
	Users *os.File
}

// join has the calling thread, and what it starts, be in these namespaces. The goroutine
// has to be locked to its thread, and must not unlock it after.
func (s *Shared) join() error {
	for flag, f := range map[int]*os.File{unix.CLONE_NEWPID: s.PID, unix.CLONE_NEWNET: s.Network, unix.CLONE_NEWIPC: s.IPC} {
		if f == nil {
			continue
		}
		err := unix.Setns(int(f.Fd()), flag)
		if errors.Is(err, unix.ESRCH) {
			err = os.ErrProcessDone
		}
		if err != nil {
			return fmt.Errorf("join a namespace of another container: %w", os.NewSyscallError("setns", err))
		}
	}
	return nil
}

// any tells whether there is one.
func (s *Shared) any() bool { return s.PID != nil || s.Network != nil || s.IPC != nil }

// sharesPIDs tells whether the program is not process 1 of a namespace of its own, so that
// the kernel does not end with it what it has started.
func (c *Config) sharesPIDs() bool { return c.HostPID || c.Shared.PID != nil || c.JoinedPID }

// openShm opens /dev/shm of the container in which the process behind target is, as a mount
// that is attached nowhere. A thread that ends then looks for it there.
func openShm(target *os.File) (fd int, err error) {
	aside(func() { fd, err = openShmHere(int(target.Fd())) })
	if err != nil {
		return -1, fmt.Errorf("open /dev/shm of another container: %w", err)
	}
	return fd, nil
}

// aside calls fn on a thread that ends with it. It is never the first of this process, which
// Go can not end: it would stay in what namespaces fn has entered, and keep their mounts.
func aside(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return // and never unlocked
		}
		aside(fn) // while this goroutine has the first
		runtime.UnlockOSThread()
	}()
	<-done
}

// openShmHere changes what the calling thread sees.
func openShmHere(target int) (int, error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return -1, os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(target, unix.CLONE_NEWNS); err != nil {
		return -1, os.NewSyscallError("setns", err)
	}
	root, err := at.OpenRoot("/")
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(root) }() // only read
	dir, err := at.InRoot(root, "/dev/shm", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(dir) }() // O_PATH
	var st unix.Statfs_t
	if err = unix.Fstatfs(dir, &st); err == nil && st.Type != unix.TMPFS_MAGIC {
		err = errors.New("it is not the kernel's")
	}
	if err != nil {
		return -1, err
	}
	return cloneMount(dir, "", 0)
}

// herd is how the processes of a container are found that shares its process ids with
// others: they are those in its mount namespace, which is its own in any case.
type herd struct {
	mounts *os.File // the namespace: while it is open its number is nobody else's
	group  string   // the directory of its control group of version 2, or ""
}

// newHerd is that of the container of the process pid.
func newHerd(pid int, group string) (*herd, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, fmt.Errorf("find the mount namespace of the container: %w", err)
	}
	return &herd{f, group}, nil
}

// herdPatience is how long processes may take to die that were killed.
const herdPatience = 10 * time.Second

// end kills all of them, and returns when there are none.
func (h *herd) end() error {
	for limit := time.Now().Add(herdPatience); ; time.Sleep(time.Millisecond) {
		if h.group != "" {
			// At one stroke, if the kernel can (5.14).
			_ = os.WriteFile(filepath.Join(h.group, "cgroup.kill"), []byte("1"), 0)
		}
		left, err := h.kill()
		if err != nil || left == 0 {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("end the processes of the container: %d of them do not", left)
		}
	}
}

// kill sends SIGKILL to each that is found, and tells how many these were.
func (h *herd) kill() (found int, err error) {
	var own unix.Stat_t
	if err := unix.Fstat(int(h.mounts.Fd()), &own); err != nil {
		return 0, err
	}
	list, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range list {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		target, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		var st unix.Stat_t
		if unix.Stat("/proc/"+e.Name()+"/ns/mnt", &st) == nil && st.Ino == own.Ino && st.Dev == own.Dev {
			found++
			_ = unix.PidfdSendSignal(target, unix.SIGKILL, nil, 0) // it may have ended
		}
		_ = unix.Close(target) // nothing was written
	}
	return found, nil
}
