package main

import (
	"errors"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/varvefs/varve/internal/engine"
)

// catchSignals begins to collect what is to be handed on to the container.
func catchSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, engine.ForwardedSignals()...)
	return signals
}

// attach stands between the person and the container until it ends, and returns
// its exit code.
func attach(r *engine.Run, signals <-chan os.Signal, stdin bool) (int, error) {
	console, err := r.Console()
	if err != nil {
		return wait(r, err)
	}
	if console == nil {
		go forward(r, signals, nil)
		return wait(r, nil)
	}
	defer func() { _ = console.Close() }() // a terminal keeps nothing back
	restore, err := makeRaw(stdin)
	if err != nil {
		return wait(r, err)
	}
	defer restore()
	resize(console)
	go forward(r, signals, console)
	if stdin {
		// Ends with this process: a read of a terminal can not be called back.
		go func() { _, _ = io.Copy(console, os.Stdin) }() // it has nobody to tell
	}
	printed := make(chan error, 1)
	go func() { printed <- copyOut(console) }()
	code, err := wait(r, nil)
	return code, errors.Join(err, <-printed)
}

// wait waits for the container, ending it first if it can not be attended.
func wait(r *engine.Run, cause error) (int, error) {
	if cause != nil {
		_ = r.Signal(unix.SIGKILL) // it may have ended
	}
	code, err := r.Wait()
	return code, errors.Join(cause, err)
}

// copyOut copies what the container prints until nobody has its terminal open,
// which reads as EIO.
func copyOut(console *os.File) error {
	_, err := io.Copy(os.Stdout, console)
	if errors.Is(err, unix.EIO) {
		return nil
	}
	return err
}

// forward hands signals on; with a terminal, a change of size goes to that.
func forward(r *engine.Run, signals <-chan os.Signal, console *os.File) {
	for sig := range signals {
		n, ok := sig.(unix.Signal)
		switch {
		case ok && n == unix.SIGWINCH && console != nil:
			resize(console)
		case ok:
			_ = r.Signal(n) // it may have ended
		}
	}
}

// makeRaw has this terminal, if it is one, pass on every key; restore undoes it.
func makeRaw(stdin bool) (restore func(), err error) {
	fd := int(os.Stdin.Fd())
	if !stdin || !term.IsTerminal(fd) {
		return func() {}, nil
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(fd, old) }, nil // the terminal may be gone
}

// resize gives the container's terminal the size of this one.
func resize(console *os.File) {
	size, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ)
	if err != nil { // no terminal here: it keeps what it has
		return
	}
	conn, err := console.SyscallConn()
	if err != nil { // closed: nobody is looking
		return
	}
	_ = conn.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) // the size is a courtesy
	})
}
