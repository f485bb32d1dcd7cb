package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Barrier is what keeps users from making user namespaces.
type Barrier struct {
	Says string // what it is: "user.max_user_namespaces = 0"
	Mend string // the command that takes it away, or what else is needed
}

const procDir = "/proc"

// Switches are settings of the kernel that close user namespaces to everybody who is not
// root: unprivileged_userns_clone is Debian's, the next one Ubuntu's, which lets them be
// made, but gives no power in them.
func switches() []struct{ file, closed, mend string } {
	return []struct{ file, closed, mend string }{
		{"user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"},
		{"kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
	}
}

// ClosedUserns tells which setting of the kernel closes user namespaces to users; nil if
// none does.
func ClosedUserns() *Barrier { return closedIn(procDir) }

func closedIn(proc string) *Barrier {
	for _, s := range switches() {
		if readSetting(proc, s.file) == s.closed {
			return &Barrier{strings.ReplaceAll(s.file, "/", ".") + " = " + s.closed, s.mend}
		}
	}
	return nil
}

// readSetting is a value below /proc/sys, "" where there is none.
func readSetting(proc, file string) string {
	value, err := os.ReadFile(filepath.Join(proc, "sys", file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(value))
}

// FindBarrier tells what is behind the failure of making a user namespace, or of the first
// steps in it.
func FindBarrier(err error) Barrier { return barrierIn(procDir, err) }

func barrierIn(proc string, err error) Barrier {
	if errors.Is(err, unix.EINVAL) {
		return Barrier{"this kernel has none", "a kernel with CONFIG_USER_NS"}
	}
	if b := closedIn(proc); b != nil {
		return *b
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EUSERS) {
		return usedUp(proc)
	}
	if filtered(proc) {
		return Barrier{"a filter of system calls refuses them, as in containers of docker and podman",
			"docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined …"}
	}
	return Barrier{"this machine does not let you make them (is this inside a container, or a chroot?), and only root needs none", "sudo varve …"}
}

// usedUp says that a limit is reached. It is each user's, and counts in all outer namespaces,
// whose limits can not be seen from here.
func usedUp(proc string) Barrier {
	value := readSetting(proc, "user/max_user_namespaces")
	more := 15000
	if n, err := strconv.Atoi(value); err == nil && 2*n > more {
		more = 2 * n
	}
	return Barrier{fmt.Sprintf("as many are in use as you may have (user.max_user_namespaces = %s here, or less in an outer namespace)", value),
		fmt.Sprintf("sudo sysctl -w user.max_user_namespaces=%d", more)}
}

// filtered tells whether this process is behind a filter of system calls.
func filtered(proc string) bool {
	status, err := os.ReadFile(filepath.Join(proc, "self/status"))
	return err == nil && strings.Contains(string(status), "\nSeccomp:\t2\n")
}

// explainUserns adds to an error of making a user namespace what is behind it.
func explainUserns(err error, wanted *Userns) error {
	if wanted == nil || !(errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) ||
		errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EUSERS)) {
		return err
	}
	b := FindBarrier(err)
	return fmt.Errorf("%w: user namespaces are closed to you: %s: %s", err, b.Says, b.Mend)
}

// explainLimit adds to an error of making a container's namespaces, with one of users or
// not, that there may be no user namespaces at all; this binds root, too.
func explainLimit(proc string, err error, userns bool) error {
	const file = "user/max_user_namespaces"
	if !userns || !errors.Is(err, unix.ENOSPC) || readSetting(proc, file) != "0" {
		return err
	}
	b := closedIn(proc) // that setting is the first
	return fmt.Errorf("start the container: user namespaces are closed: %s: %s", b.Says, b.Mend)
}

// TryUserns makes a user namespace of a single id, and runs this program in it with args,
// which have to succeed and to take no time.
func TryUserns(args []string) error {
	c, err := startSelf(Self{Args: args, Userns: SingleUserns(""), PrivateMounts: true})
	if err != nil {
		return err
	}
	code, err := c.Wait()
	if err == nil && code != 0 {
		err = fmt.Errorf("a program can not do its work in it: %w", unix.EPERM)
	}
	return err
}
