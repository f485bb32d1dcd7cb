package container

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// socketName is where the supervisor of a container listens to verbs.
const socketName = "control.sock"

// A controlSocket is that, and served until it is closed.
type controlSocket struct {
	listener *net.UnixListener
	dir      int // of the container
}

// SocketPath is a short name of the socket in the directory behind dir: the whole
// path may be longer than a socket's can be, unix(7).
func SocketPath(dir int) string { return filepath.Join("/proc/self/fd", strconv.Itoa(dir), socketName) }

// openDoor makes the socket, for its owner alone, and serves it.
func (s *supervisor) openDoor() (*controlSocket, error) {
	if err := at.Unlink(s.dir, socketName); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	// The file takes the mode of the socket, so that it is never open to others.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) { err = os.NewSyscallError("fchmod", unix.Fchmod(int(fd), 0o600)) })
		return errors.Join(controlErr, err)
	}}
	listener, err := config.Listen(context.Background(), "unix", SocketPath(s.dir))
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", ErrnoIn(err))
	}
	unixListener := listener.(*net.UnixListener)
	unixListener.SetUnlinkOnClose(false)
	d := &controlSocket{unixListener, s.dir}
	go d.serve(s)
	return d, nil
}

// close removes the socket. Preconditions: the container can not be started again yet.
func (d *controlSocket) close() error {
	if d == nil {
		return nil
	}
	err := at.Unlink(d.dir, socketName)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(err, d.listener.Close())
}

// serve answers until the socket is closed.
func (d *controlSocket) serve(s *supervisor) {
	for {
		conn, err := d.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many descriptors, at this moment
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if !sameUser(conn) {
			_ = conn.Close() // the mode of the socket has said it
			continue
		}
		go s.listen(s.newGuest(&Wire{conn: conn}))
	}
}

// sameUser tells whether the other end is a process of the user of this one.
func sameUser(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var who *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { who, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return err == nil && credErr == nil && int(who.Uid) == os.Geteuid()
}

// A guest is the other end of a connection to a verb.
type guest struct {
	wire       *Wire
	taps       [2]*tap // where it hears the program, by stream
	stdin      bool    // it may write to the program
	holds      bool    // it has the programs stand still
	foreground bool

	mu       sync.Mutex    // guards all below
	terminal *os.File      // its terminal, to be put back should it vanish; nil if there is none
	settings *unix.Termios // how that was
}

// keepTerminal notes how the terminal of a guest is, and takes it over.
func (g *guest) keepTerminal(f *os.File) {
	g.mu.Lock()
	defer g.mu.Unlock()
	settings, err := terminalSettings(f)
	if err != nil || g.terminal != nil {
		_ = f.Close() // it is no terminal
		return
	}
	g.terminal, g.settings = f, settings
}

func terminalSettings(f *os.File) (*unix.Termios, error) {
	fd, err := FileNumber(f)
	if err != nil {
		return nil, err
	}
	return unix.IoctlGetTermios(fd, unix.TCGETS)
}

// forgetTerminal leaves the terminal to its owner.
func (g *guest) forgetTerminal() {
	g.mu.Lock()
	defer g.mu.Unlock()
	CloseAll([]*os.File{g.terminal})
	g.terminal = nil
}

// restoreTerminal puts the terminal of a guest that has vanished back to how it was:
// kill -9 of a verb must not leave a terminal in which nothing can be typed.
func (g *guest) restoreTerminal() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.terminal == nil {
		return
	}
	if fd, err := FileNumber(g.terminal); err == nil {
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, g.settings) // it may be gone, too
	}
	_ = g.terminal.Close() // nothing was written
	g.terminal = nil
}

// unwrap takes the terminal out of the descriptors of a request.
func (g *guest) unwrap(r Request, files []*os.File) []*os.File {
	if !r.Restore || len(files) == 0 {
		return files
	}
	g.keepTerminal(files[len(files)-1])
	return files[:len(files)-1]
}

func (s *supervisor) newGuest(w *Wire) *guest { return &guest{wire: w} }

// listen does what a guest asks, until it hangs up.
func (s *supervisor) listen(g *guest) {
	defer s.dismiss(g)
	for {
		r, files, err := g.wire.ReceiveRequest()
		if err != nil {
			return
		}
		if r.Do == DoBye {
			g.forgetTerminal()
			return
		}
		if err := s.answer(g, r, g.unwrap(r, files)); err != nil {
			_ = g.wire.Send(Reply{Event: EventFailed, Error: err.Error(), Stage: CodeFailed}) // it may be gone
		}
	}
}

// answer does one thing that a guest asks.
func (s *supervisor) answer(g *guest, r Request, files []*os.File) error {
	switch r.Do {
	case DoAttach:
		if err := s.admit(g, r.Attach, files); err != nil {
			return err
		}
		s.welcome(g)
		s.note("attach", nil)
		return nil
	case DoSignal:
		if r.Signal != unix.SIGWINCH { // which docker has other ways for
			s.note("kill", map[string]string{"signal": strconv.Itoa(int(r.Signal))})
		}
		if r.Ack && (r.Signal == unix.SIGKILL || r.Signal == s.spec.stopSignal()) {
			s.markStopped()
		}
		if s.signal(r.Signal); r.Signal == unix.SIGKILL {
			s.thaw()
		}
		if !r.Ack {
			return nil
		}
		return g.wire.Send(Reply{Event: EventDone})
	case DoStop:
		s.tellTheEnd(g)
		s.markStopped()
		s.stop(*r.Stop)
		return nil
	case DoWait:
		s.tellTheEnd(g)
		return nil
	case DoExec:
		go s.exec(g, r.Exec, files)
		return nil
	case DoCopy:
		go s.courier(g, files)
		return nil
	case DoHold:
		return s.hold(g)
	case DoRelease:
		s.release(g)
		return g.wire.Send(Reply{Event: EventDone})
	}
	CloseAll(files)
	return fmt.Errorf("%q is nothing that this varve knows: is the container of a newer one?", r.Do)
}

// admit connects the streams that a guest wants to hear. a may be nil: none.
func (s *supervisor) admit(g *guest, a *Attachment, files []*os.File) error {
	if a == nil {
		CloseAll(files)
		return nil
	}
	g.stdin, g.foreground = a.Stdin, a.Foreground
	if a.Passed && len(files) > 0 {
		s.passed, files = files[len(files)-1], files[:len(files)-1]
	}
	if a.Columns > 0 {
		s.setSize(a.Columns, a.Rows)
	}
	for i, stream := range a.Streams {
		if i >= len(files) || stream < 0 || stream >= len(s.out) || g.taps[stream] != nil {
			CloseAll(files[min(i, len(files)):])
			return errors.New("attach: the streams and the descriptors do not fit")
		}
		t, err := newTap(files[i], func() bool { return s.abandoned(g) })
		if err != nil {
			CloseAll(files[i:])
			return err
		}
		g.taps[stream] = t
		s.out[stream].add(t)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[g] = true
	return nil
}

// hangUpGrace is how long after its pipes the connection of a verb that was killed
// may close.
const hangUpGrace = 100 * time.Millisecond

// abandoned tells whether a program is to see that nobody reads what it writes: its
// foreground is still there, and does not read. If the foreground has gone, the
// container goes on alone.
func (s *supervisor) abandoned(g *guest) bool {
	if !g.foreground {
		return false
	}
	time.Sleep(hangUpGrace)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[g]
}

// welcome tells a guest that the program runs, with what it may write to. The stdin
// of a program that was started with a foreground is that one's alone, so that it
// ends when that ends.
func (s *supervisor) welcome(g *guest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tellTheEnd(g)
	s.welcomeLocked(g)
}

// welcomeLocked is welcome without the promise to tell the end. Preconditions: s.mu is held.
func (s *supervisor) welcomeLocked(g *guest) {
	if !g.stdin || s.stdin == nil {
		_ = g.wire.Send(Reply{Event: EventStarted}) // it may be gone
		return
	}
	_ = g.wire.Send(Reply{Event: EventStarted, Files: 1}, s.stdin) // likewise
	if s.spec.StdinOnce && !s.spec.Terminal {
		_ = s.stdin.Close() // a pipe
		s.stdin, s.inlet = nil, nil
	}
}

// showTerminals gives all who are attached the terminal of a program that was started
// again.
func (s *supervisor) showTerminals() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.spec.Terminal {
		return
	}
	for g := range s.sessions {
		s.welcomeLocked(g)
	}
}

// dismiss forgets a guest who has hung up.
func (s *supervisor) dismiss(g *guest) {
	s.mu.Lock()
	delete(s.sessions, g)
	s.mu.Unlock()
	for stream, t := range g.taps {
		if t != nil {
			s.out[stream].remove(t)
		}
	}
	g.restoreTerminal()
	s.release(g)
	g.wire.Close()
}

// tellTheEnd promises a guest the exit code.
func (s *supervisor) tellTheEnd(g *guest) {
	s.owed.Go(func() {
		<-s.ended
		g.forgetTerminal()
		r := Reply{Event: EventEnded, Code: s.ending.Code}
		if s.ending.Err != nil {
			r.Error = s.ending.Err.Error()
		}
		_ = g.wire.Send(r) // it may be gone
	})
}

// signal sends sig to the program, or keeps it until there is one.
func (s *supervisor) signal(sig unix.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sig == unix.SIGKILL || sig == s.spec.stopSignal() {
		s.haltLocked()
	}
	if s.process == nil {
		if s.state.Status != Restarting {
			s.early = append(s.early, sig)
		}
		return
	}
	_ = s.process.Signal(sig) // it may have ended
}

// thaw lets a paused program go on, so that it can end.
func (s *supervisor) thaw() {
	s.mu.Lock()
	state := s.state
	s.mu.Unlock()
	if state.Paused() {
		_ = state.Thaw() // it may have ended
	}
}

// markStopped notes that a verb has asked the container to end.
func (s *supervisor) markStopped() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Stopped = true
}

// haltLocked has the program not started again. Preconditions: s.mu is held.
func (s *supervisor) haltLocked() {
	if !s.halted {
		s.halted = true
		close(s.halt)
	}
}

// setSize gives the terminal of the program, or of the one that is to come, a size.
func (s *supervisor) setSize(columns, rows uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.columns, s.rows = columns, rows
	if s.spec.Terminal && s.stdin != nil {
		_ = resize(s.stdin, columns, rows) // a courtesy
	}
}

// stop asks the program to end, and kills it when it has not in time.
func (s *supervisor) stop(opt StopOptions) {
	sig, patience := s.spec.stopSignal(), s.spec.stopTimeout()
	if opt.Signal != 0 {
		sig = opt.Signal
	}
	if opt.Timeout != nil {
		patience = time.Duration(*opt.Timeout) * time.Second
	}
	s.mu.Lock()
	s.haltLocked()
	s.mu.Unlock()
	if patience == 0 {
		sig = unix.SIGKILL
	}
	s.note("kill", map[string]string{"signal": strconv.Itoa(int(sig))})
	s.signal(sig)
	s.thaw()
	if patience <= 0 {
		return
	}
	go func() {
		select {
		case <-s.ended:
		case <-time.After(patience):
			s.note("kill", map[string]string{"signal": strconv.Itoa(int(unix.SIGKILL))})
			s.signal(unix.SIGKILL)
		}
	}()
}
