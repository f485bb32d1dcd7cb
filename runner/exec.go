package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// defaultPath is used when the environment has no PATH, as docker has it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookUp finds the program in the container, whose root and working directory
// are ours by now. The sentences are docker's.
func lookUp(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, isProgram(name, name)
	}
	for dir := range strings.SplitSeq(pathOf(env), ":") {
		if dir == "" {
			dir = "."
		}
		if file := path.Join(dir, name); isProgram(name, file) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("exec: %q: executable file %w in $PATH", name, ErrNotFound)
}

func pathOf(env []string) string {
	for i := len(env) - 1; i >= 0; i-- { // the last one counts
		if value, found := strings.CutPrefix(env[i], "PATH="); found {
			return value
		}
	}
	return defaultPath
}

// isProgram tells why file can not be executed, nil if it seems it can.
func isProgram(name, file string) error {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return &initError{fmt.Sprintf("exec: %q: %v", name, err), ErrNotFound}
	}
	if err == nil && info.IsDir() {
		err = unix.EISDIR
	}
	if err == nil {
		err = unix.Access(file, unix.X_OK)
	}
	if err != nil {
		return &initError{fmt.Sprintf("exec: %q: %v", name, err), ErrNotExecutable}
	}
	return nil
}

// execError says why execve refused a program that is there. ENOENT is that of
// the interpreter it names.
func execError(program string, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return &initError{fmt.Sprintf("exec %s: %v (the interpreter that it names is missing)", program, err), ErrNotFound}
	}
	return &initError{fmt.Sprintf("exec %s: %v", program, err), ErrNotExecutable}
}

// resetSignals lets the program begin with every signal at its default and none
// blocked, whatever our caller ignored (nohup, a shell's background job): execve
// puts what has a handler to default, but keeps what is ignored. It goes around
// Go's runtime, which execve ends next; os/signal would take milliseconds here.
func resetSignals() error {
	const signals, setSize, ignored = 64, 8, 1 // _NSIG, sizeof(sigset_t), SIG_IGN
	for sig := uintptr(1); sig <= signals; sig++ {
		// struct sigaction begins with the handler; all zero is the default.
		var old, standard [8]uintptr
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&old)), setSize, 0, 0)
		if errno == 0 && old[0] == ignored {
			_, _, errno = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&standard)), 0, setSize, 0, 0)
		}
		if errno != 0 {
			return fmt.Errorf("put signal %d to its default: %w", sig, errno)
		}
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil); err != nil {
		return fmt.Errorf("unblock the signals: %w", err)
	}
	return nil
}
