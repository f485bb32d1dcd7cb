package runner

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Process is a container's program, which [Start] has started. Its methods may
// be called from several goroutines.
type Process struct {
	proc      *process
	startTime uint64
	console   *os.File
	grouped   bool
	watch     atomic.Pointer[watch]
	herd      *herd    // nil if the kernel ends all processes with the program
	stage     *os.File // Config.Stage

	executed chan struct{} // closed when the program runs
	done     chan struct{} // closed when code and err below are final
	code     int
	err      error
}

// Pid returns the process id of the program in the caller's pid namespace.
func (p *Process) Pid() int { return p.proc.pid }

// StartTime returns when the process was made, in clock ticks since boot: with
// the pid it names one process and never a later one. See [ProcessStartTime].
func (p *Process) StartTime() uint64 { return p.startTime }

// Grouped tells whether the program is in Config.Group.
func (p *Process) Grouped() bool { return p.grouped }

// Console returns the other side of the program's terminal, nil if
// Config.Terminal was not set. What is written to it is typed, what is read was
// printed; reading gives EIO when no process has the terminal open. It is
// non-blocking, so Close ends a Read that waits. The caller closes it.
func (p *Process) Console() *os.File { return p.console }

// Resize tells the program that its terminal has a new size.
func (p *Process) Resize(columns, rows uint16) error {
	if p.console == nil {
		return errors.New("resize: the container has no terminal")
	}
	conn, err := p.console.SyscallConn()
	if err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	var ctl error
	err = conn.Control(func(fd uintptr) {
		ctl = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	if err = errors.Join(err, ctl); err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	return nil
}

// Signal sends sig to the program, and to no other of its processes. As it is
// process 1 the kernel drops signals that it has no handler for, but SIGKILL and
// SIGSTOP. A program that has ended is os.ErrProcessDone.
func (p *Process) Signal(sig unix.Signal) error {
	if err := p.proc.signal(sig); err != nil {
		return fmt.Errorf("signal %d: %w", sig, err)
	}
	return nil
}

// Wait returns when the program and with it every process of the container has
// ended: its exit code, or 128+n after signal n. It may be called again, and
// gives the same.
func (p *Process) Wait() (exitCode int, err error) {
	<-p.done
	return p.code, p.err
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// oversee waits for the program, and keeps the watch over it meanwhile.
func (p *Process) oversee() {
	defer close(p.done)
	defer p.proc.release()
	ended, unwatched := make(chan struct{}), make(chan error, 1)
	go func() { unwatched <- p.keepWatch(ended) }()
	code, err := p.proc.wait()
	if p.herd != nil {
		p.err = p.herd.end()
	}
	close(ended)
	p.code = code
	p.err = errors.Join(p.err, err, <-unwatched)
	if p.herd != nil {
		_ = p.herd.mounts.Close() // a namespace
	}
}

// gather notes how the processes of the container are found, which has just been started, and
// waits for that.
func (p *Process) gather(cfg *Config, w *passage) (err error) {
	group := cfg.GroupDir
	if !p.grouped {
		group = ""
	}
	if p.herd, err = newHerd(p.Pid(), group); err == nil {
		if err = w.ours.send(msgGathered, "", -1); err != nil {
			_ = p.herd.mounts.Close() // a namespace
		}
	}
	if err != nil {
		err = errors.Join(err, p.proc.end())
	}
	return err
}

// abandon ends the init stage that could not become the program. It returns
// cause, and how the stage ended if cause is that it ended silently.
func (p *Process) abandon(cause error) error {
	if err := p.proc.kill(); err != nil {
		cause = errors.Join(cause, err)
	}
	code, err := p.Wait()
	if errors.Is(cause, errSilent) {
		return errors.Join(fmt.Errorf("%w (exit code %d)", cause, code), err)
	}
	return errors.Join(cause, err)
}

// ProcessStartTime returns when process pid was made, in clock ticks since boot
// (field 22 of /proc/PID/stat, proc_pid_stat(5)). A pid that is nobody's gives
// fs.ErrNotExist.
func ProcessStartTime(pid int) (uint64, error) {
	name := fmt.Sprintf("/proc/%d/stat", pid)
	data, err := os.ReadFile(name)
	if errors.Is(err, unix.ESRCH) { // it ended between open and read
		err = &os.PathError{Op: "read", Path: name, Err: os.ErrNotExist}
	}
	if err != nil {
		return 0, fmt.Errorf("start time of process %d: %w", pid, err)
	}
	// The second field is the command's name in parentheses, which may hold
	// blanks and parentheses itself; behind it comes the third.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("start time of process %d: %s has too few fields", pid, name)
	}
	ticks, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("start time of process %d: %w", pid, err)
	}
	return ticks, nil
}
