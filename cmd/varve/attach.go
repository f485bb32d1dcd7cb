package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/engine"
)

// attach is `varve attach`.
func (c *cli) attach() *cobra.Command {
	front := foreground{stdin: true, stdout: true, stderr: true}
	var noStdin bool
	cmd := &cobra.Command{
		Use:     "attach [OPTIONS] CONTAINER",
		Short:   "Connect this terminal, or these pipes, with a container that runs",
		Example: "  varve attach work    # Ctrl-P Ctrl-Q leaves it again",
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := front.check(); err != nil {
				return usage(cmd, err)
			}
			e, err := c.open()
			if err != nil {
				return err
			}
			front.stdin = !noStdin
			c.code, err = front.attachTo(e, args[0])
			return err
		},
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "do not connect stdin")
	front.flags(cmd)
	return cmd
}

// attachTo stands between the person and a container that runs already.
func (f *foreground) attachTo(e *engine.Engine, name string) (int, error) {
	terminal, interactive, err := e.Streams(name)
	if err != nil {
		return 0, err
	}
	f.stdin = f.stdin && interactive
	if terminal && f.stdin && !term.IsTerminal(int(os.Stdin.Fd())) {
		return 0, errors.New("the input device is not a TTY: use --no-stdin")
	}
	f.catchSignals()
	s, err := e.Attach(name, f.options(terminal))
	if err != nil {
		return 0, err
	}
	return f.attend(s)
}

// A foreground is what stands between a person, or pipes, and a container.
type foreground struct {
	stdin, stdout, stderr bool // what is connected
	sigProxy              bool
	detachKeys            string

	terminal bool // of the container
	keys     []byte
	signals  chan os.Signal
}

func (f *foreground) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.sigProxy, "sig-proxy", true, "hand signals on to the container")
	cmd.Flags().StringVar(&f.detachKeys, "detach-keys", "ctrl-p,ctrl-q", "the keys that leave the container running")
}

func (f *foreground) check() (err error) {
	f.keys, err = parseKeys(f.detachKeys)
	return err
}

// options are what is connected to a container with or without a terminal.
func (f *foreground) options(terminal bool) *engine.AttachOptions {
	f.terminal = terminal
	opt := &engine.AttachOptions{}
	if f.stdin {
		opt.Stdin = os.Stdin
	}
	if f.stdout || terminal && f.stderr {
		opt.Stdout = os.Stdout
	}
	if f.stderr {
		opt.Stderr = os.Stderr
	}
	if f.isRaw() {
		opt.Restore = os.Stdin
	}
	if size, err := windowSize(); err == nil && terminal {
		opt.Columns, opt.Rows = size.Col, size.Row
	}
	return opt
}

// catchSignals begins to collect what is to be handed on to the container.
func (f *foreground) catchSignals() {
	f.signals = make(chan os.Signal, 64)
	if f.sigProxy {
		signal.Notify(f.signals, container.ForwardedSignals()...)
		return
	}
	signal.Notify(f.signals, unix.SIGWINCH)
}

// attend stands between the person and the container until it ends, and returns its
// exit code, or until it is left.
func (f *foreground) attend(s *engine.Session) (int, error) {
	go f.forward(s)
	if s.Started() != nil {
		return s.Wait()
	}
	restore, err := f.makeRaw()
	if err != nil {
		_ = s.Signal(unix.SIGKILL) // it may have ended
		_, waitErr := s.Wait()
		return 0, errors.Join(err, waitErr)
	}
	defer restore()
	left := make(chan struct{})
	if f.stdin {
		// Ends with this process: a read of a terminal can not be called back.
		go func() {
			if !f.terminal {
				s.Pour(os.Stdin)
			} else if f.typeInto(s) {
				close(left)
			}
		}()
	}
	return f.await(s, left)
}

// await waits for the end of the container, or until it is left.
func (f *foreground) await(s *engine.Session, left <-chan struct{}) (int, error) {
	type ending struct {
		code int
		err  error
	}
	ended := make(chan ending, 1)
	go func() {
		code, err := s.Wait()
		ended <- ending{code, err}
	}()
	select {
	case end := <-ended:
		return end.code, end.err
	case <-left:
		s.HangUp()
		fmt.Print("\r\n") // below the prompt of the container
		return 0, nil
	}
}

// forward hands signals on; with a terminal, a change of size goes to that.
func (f *foreground) forward(s *engine.Session) {
	for sig := range f.signals {
		n, ok := sig.(unix.Signal)
		switch {
		case ok && n == unix.SIGWINCH && f.terminal:
			resize(s.Input())
		case ok && f.sigProxy:
			_ = s.Signal(n) // it may have ended
		}
	}
}

// typeInto hands on what is typed, and tells whether the keys to leave were.
func (f *foreground) typeInto(s *engine.Session) (left bool) {
	resize(s.Input())
	scan := keyScan{keys: f.keys}
	buf := make([]byte, 4<<10)
	for {
		n, err := os.Stdin.Read(buf)
		typed, left := scan.next(buf[:n])
		if in := s.Input(); in != nil && len(typed) > 0 {
			_, _ = in.Write(typed) // the program may have ended
		}
		if left {
			return true
		}
		if err != nil && !errors.Is(err, io.ErrNoProgress) {
			return false
		}
	}
}

// makeRaw has this terminal, if it is one, pass on every key; restore undoes it.
func (f *foreground) makeRaw() (restore func(), err error) {
	fd := int(os.Stdin.Fd())
	if !f.isRaw() {
		return func() {}, nil
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(fd, old) }, nil // the terminal may be gone
}

// isRaw tells whether this terminal is to pass on every key.
func (f *foreground) isRaw() bool {
	return f.stdin && f.terminal && term.IsTerminal(int(os.Stdin.Fd()))
}

func windowSize() (*unix.Winsize, error) {
	return unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ)
}

// resize gives the container's terminal the size of this one.
func resize(console *os.File) {
	size, err := windowSize()
	if err != nil || console == nil { // no terminal here: it keeps what it has
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
