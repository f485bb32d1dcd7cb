package runner

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is a child of this process. It is an os.Process that costs less: package os
// finds out by a fork of its own whether the kernel has pidfds, which varve takes for
// granted. The methods may be called from several goroutines, but wait only once.
// Whoever has waited releases it.
type process struct {
	pid int
	fd  *os.File // a pidfd
}

// startProcess is os.StartProcess.
func startProcess(program string, args []string, attr *os.ProcAttr) (*process, error) {
	fd, sys := -1, syscall.SysProcAttr{}
	if attr.Sys != nil {
		sys = *attr.Sys
	}
	sys.PidFD = &fd
	low := syscall.ProcAttr{Dir: attr.Dir, Env: attr.Env, Sys: &sys}
	if low.Env == nil {
		low.Env = os.Environ()
	}
	for _, f := range attr.Files {
		n := ^uintptr(0) // closed
		if f != nil {
			n = f.Fd()
		}
		low.Files = append(low.Files, n)
	}
	pid, _, err := syscall.StartProcess(program, args, &low)
	runtime.KeepAlive(attr)
	if err != nil {
		return nil, &os.PathError{Op: "fork/exec", Path: program, Err: err}
	}
	return &process{pid, os.NewFile(uintptr(fd), "pidfd")}, nil
}

// findProcess is a child of this process that was started by hand and is not reaped yet.
func findProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("pidfd_open", err), reap(pid))
	}
	return &process{pid, os.NewFile(uintptr(fd), "pidfd")}, nil
}

// signal sends sig; one that has ended is os.ErrProcessDone.
func (p *process) signal(sig unix.Signal) error {
	conn, err := p.fd.SyscallConn()
	if err != nil { // it is closed
		return os.ErrProcessDone
	}
	sent := error(nil)
	if err = conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil || sent == unix.ESRCH {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("pidfd_send_signal", sent)
}

// wait returns the exit code when the process has ended, or 128+n after signal n.
func (p *process) wait() (int, error) {
	var status unix.WaitStatus
	_, err := unix.Wait4(p.pid, &status, 0, nil)
	for err == unix.EINTR {
		_, err = unix.Wait4(p.pid, &status, 0, nil)
	}
	if err != nil {
		return 0, fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// release closes the pidfd. Who signals later hears that the process has ended.
func (p *process) release() { _ = p.fd.Close() } // a pidfd

// kill kills a process, which may have ended.
func (p *process) kill() error {
	if err := p.signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", p.pid, err)
	}
	return nil
}

// end kills a process, which may have ended, waits for it and releases it.
func (p *process) end() error {
	defer p.release()
	err := p.kill()
	_, waitErr := p.wait()
	return errors.Join(err, waitErr)
}
