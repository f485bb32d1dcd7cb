package runner

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel forgets PR_SET_PDEATHSIG when a process changes its user, as
// gosu, su and their like do in process 1 of many images. Such a container would
// outlive a supervisor that is killed. So each one has a watch: a process that
// reads from a socket whose other end is the supervisor's alone, and forks for it
// when it is asked to (watchleap.go). At end of file the supervisor has died, and the
// watch kills the container.
//
// It is a stage and not a fork, which would hold the memory of the supervisor.
// It starts a little later than the program, so that short runs, which are the
// most and want to be quick, do without: until then PR_SET_PDEATHSIG has to do.

// watchName is argv[0] of the watch stage.
const watchName = "varve-watch"

// watchDelay is the age from which on a program has a watch. The entry point of an
// image with gosu takes about as long until it changes its user.
const watchDelay = 50 * time.Millisecond

// watchRetry is the time to the next attempt, should there be no process to be
// had. (The container may itself have taken what the user's limit allows.)
const watchRetry = time.Second

// Descriptors of the watch stage, after three that are /dev/null.
const (
	watchedFD = 3 // pidfd of the container's process 1
	doorFD    = 4 // a socket to the supervisor
	herdFD    = 5 // the mount namespace of a container that shares its process ids; else /dev/null
	programFD = 6 // Config.Stage, if there is one
)

// watch is the supervisor's side.
type watch struct {
	proc *process

	mu     sync.Mutex // guards the two below, and is held while the watch is asked for something
	door   *os.File   // a socket to its doorFD
	closed bool
}

// keepWatch has a watch over the container until ended is closed. That there is none
// yet is no error: it tries again, and the container is still bound to its supervisor
// by PR_SET_PDEATHSIG.
//
// One whose processes do not end with its first, a herd, has a watch at once.
func (p *Process) keepWatch(ended <-chan struct{}) error {
	delay := time.Duration(0)
	if p.herd == nil {
		delay = watchDelay
		select {
		case <-ended:
			return nil
		case <-p.executed:
		}
	}
	for ; ; delay = watchRetry {
		select {
		case <-ended:
			return nil
		case <-time.After(delay):
		}
		if w, err := startWatch(p.proc.fd, p.stage, p.herd); err == nil {
			p.watch.Store(w)
			<-ended
			p.watch.Store(nil)
			return w.stop()
		}
	}
}

// startWatch watches over the process behind pidfd, which stays the caller's, as stage
// does.
func startWatch(pidfd, stage *os.File, h *herd) (*watch, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), watchName), os.NewFile(uintptr(fds[1]), watchName)
	defer func() { _ = theirs.Close() }() // the watch has it
	// A session of its own: the terminal's Ctrl-C is not for it.
	attr := &os.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{Setsid: true},
		Files: []*os.File{nil, nil, nil, pidfd, theirs, nil}}
	args := []string{watchName}
	if h != nil {
		attr.Files[herdFD] = h.mounts
		args = append(args, h.group)
	}
	program := selfExe
	if stage != nil {
		program = fmt.Sprintf("/proc/self/fd/%d", programFD)
		attr.Files = append(attr.Files, stage)
	}
	proc, err := startProcess(program, args, attr)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the container's watch: %w", err), ours.Close())
	}
	return &watch{proc: proc, door: ours}, nil
}

// stop ends the watch of a container that has ended.
func (w *watch) stop() error {
	err := w.proc.end() // who waits for an answer hears of it
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if err = errors.Join(err, w.door.Close()); err != nil {
		return fmt.Errorf("end the container's watch: %w", err)
	}
	return nil
}

// watchStage is all that the watch does. It does not return.
func watchStage() {
	for attend() {
	}
	err := unix.PidfdSendSignal(watchedFD, unix.SIGKILL, nil, 0)
	if len(os.Args) > 1 { // a herd
		h := herd{os.NewFile(herdFD, "mounts"), os.Args[1]}
		if endErr := h.end(); endErr != nil {
			os.Exit(1)
		}
	}
	if err != nil && err != unix.ESRCH { // it has ended together with the supervisor
		os.Exit(1) // there is nobody left to tell
	}
	os.Exit(0)
}
