package container

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/runner"
)

// streams are the descriptors 0 to 2 of one run of a program: the program's ends, and
// the supervisor's.
type streams struct {
	theirs []*os.File
	source [2]*os.File // what the program writes, by stream; a terminal is one
	stdin  *os.File    // what it reads
	kept   bool        // stdin is that of the next run, too
	flows  sync.WaitGroup
}

// openStreams makes pipes, and notes the program's ends in cfg. A terminal comes from
// the init stage instead.
func (s *supervisor) openStreams(cfg *runner.Config) (f *streams, err error) {
	f = &streams{}
	if s.spec.Terminal {
		return f, nil
	}
	defer func() {
		if err != nil {
			f.closeTheirs()
			f.closeOurs()
		}
	}()
	for stream, end := range []**os.File{&cfg.Stdout, &cfg.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return f, fmt.Errorf("pipe: %w", err)
		}
		f.source[stream], *end, f.theirs = r, w, append(f.theirs, w)
	}
	if fd, err := FileNumber(f.source[StreamOut]); err == nil {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, OutflowSize) // who has many pipes gets small ones
	}
	switch {
	case s.passed != nil:
		cfg.Stdin = s.passed
	case s.spec.Stdin && s.input != nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		cfg.Stdin, f.stdin, f.kept = s.input, s.inlet, true
	case s.spec.Stdin:
		return f, s.openInput(cfg, f)
	}
	return f, nil
}

// openInput makes the pipe of the program's stdin. One that may be started again has the
// same then: what nobody has read yet is still there, and so is the end of it.
func (s *supervisor) openInput(cfg *runner.Config, f *streams) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	cfg.Stdin, f.stdin = r, w
	if s.spec.Restart.Name == "" {
		f.theirs = append(f.theirs, r)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.input, s.inlet, f.kept = r, w, true
	return nil
}

func (f *streams) closeTheirs() {
	CloseAll(f.theirs)
	f.theirs = nil
}

func (f *streams) closeOurs() { CloseAll([]*os.File{f.source[0], f.source[1], f.stdin}) }

// flow begins to carry what the program writes. Preconditions: s.mu is held.
func (f *streams) flow(s *supervisor, process *runner.Process) {
	if console := process.Console(); console != nil {
		f.source[StreamOut], f.stdin = console, console
	}
	s.stdin = f.stdin
	alive := func() bool {
		select {
		case <-process.Done():
			return false
		default:
			return true
		}
	}
	for stream, source := range f.source {
		if source != nil {
			f.flows.Go(func() { s.out[stream].pump(source, s.spec.Terminal, alive) })
		}
	}
}

// LastWords is how long what a program has left in its pipes may take to come out.
// Somebody outside of the container may hold the pipes, too.
const LastWords = 10 * time.Millisecond

// settle waits until all that the program has written is where it belongs.
// Preconditions: the program has ended.
func (f *streams) settle() {
	done := make(chan struct{})
	go func() { f.flows.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(LastWords):
		for _, source := range f.source {
			if source != nil {
				_ = source.SetReadDeadline(time.Now()) // it may have come to its end
			}
		}
		<-done
	}
	if f.stdin != nil && !f.kept && f.stdin != f.source[StreamOut] {
		_ = f.stdin.Close() // nobody reads it
	}
}

// resize gives the terminal a size.
func resize(console *os.File, columns, rows uint16) error {
	fd, err := FileNumber(console)
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	}
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
