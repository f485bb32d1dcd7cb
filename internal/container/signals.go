package container

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ForwardedSignals are those that go on to the program of a container when its
// foreground or its supervisor gets them.
func ForwardedSignals() []os.Signal {
	return []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGWINCH, unix.SIGCONT, unix.SIGALRM}
}

// StopOptions say how a container is to be stopped; the zero value is how it wants
// to be.
type StopOptions struct {
	Signal  unix.Signal // 0 is the container's own
	Timeout *int        // seconds until SIGKILL, negative for never; nil is the container's own
}

// ErrNotRunning: there is no supervisor to speak with.
var ErrNotRunning = errors.New("the container is not running")

// ParseSignal reads a signal as kill(1) does: a number, or a name with or without SIG.
func ParseSignal(text string) (unix.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil {
		if n <= 0 || n > 64 {
			return 0, fmt.Errorf("invalid signal: %s", text)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	if sig, ok := realTimeSignal(name); ok {
		return sig, nil
	}
	return 0, fmt.Errorf("invalid signal: %s", text)
}

// realTimeSignal reads SIGRTMIN+n and SIGRTMAX-n, as the C library numbers them.
func realTimeSignal(name string) (unix.Signal, bool) {
	const least, most = 34, 64
	for _, base := range []struct {
		name  string
		first int
		sign  string
	}{{"SIGRTMIN", least, "+"}, {"SIGRTMAX", most, "-"}} {
		rest, ok := strings.CutPrefix(name, base.name)
		if !ok {
			continue
		}
		if rest == "" {
			return unix.Signal(base.first), true
		}
		n, err := strconv.Atoi(rest)
		if n += base.first; err == nil && strings.HasPrefix(rest, base.sign) && n >= least && n <= most {
			return unix.Signal(n), true
		}
	}
	return 0, false
}
