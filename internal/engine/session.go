package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/runner"
)

// A Session is a verb's connection to the supervisor of a container: that of run and
// start, which have started it, or of attach. Wait has to be called once, or Detach;
// the other methods may be called from other goroutines.
type Session struct {
	// ID is the container's.
	ID string
	// Warning says what the container has to do without, nil if nothing.
	Warning error

	engine  *Engine
	wire    *container.Wire
	child   *runner.Child         // the supervisor, if it was started here
	created chan error            // what remains of the creation; nil if there was none
	outputs []*carrier            // of what is printed
	screen  *os.File              // where what a terminal of exec prints goes
	started chan startup          // the first word of the supervisor
	ended   chan container.Ending // the last

	mu    sync.Mutex // guards input
	input *os.File   // the terminal, or the program's stdin; nil without one
}

// startup is what has come of the start of a program.
type startup struct{ err error }

// AttachOptions say which streams of a program are connected to files of the
// caller, who keeps them. nil is not connected.
type AttachOptions struct {
	Stdin          *os.File
	Stdout, Stderr *os.File
	// Columns and Rows are the size of the caller's terminal, 0 if there is none.
	Columns, Rows uint16
	// Restore is the caller's terminal, which he is about to change: the supervisor puts
	// it back should he be killed. nil is none.
	Restore *os.File
}

// A StartError says why a program could not be run, with the exit code for that:
// 125, 126 or 127.
type StartError struct {
	Code int
	Text string
}

func (e *StartError) Error() string { return e.Text }

func newSession(e *Engine, id string) *Session {
	return &Session{ID: id, engine: e, started: make(chan startup, 1), ended: make(chan container.Ending, 1)}
}

// ask sends the request that makes the session, and begins to listen. With opt nil
// no stream is connected.
func (s *Session) ask(r container.Request, opt *AttachOptions, foreground, terminal bool) error {
	if err := s.request(r, opt, foreground, terminal); err != nil {
		return err
	}
	go s.listen()
	return nil
}

// request is ask for who listens later.
func (s *Session) request(r container.Request, opt *AttachOptions, foreground, terminal bool) error {
	var files, ours []*os.File
	if opt != nil {
		var err error
		if r.Attach, files, ours, err = s.connect(opt, r.Do == container.DoBegin, terminal); err != nil {
			return err
		}
		r.Attach.Foreground = foreground
	}
	files = restoreWith(&r, files, opt)
	r.Files = len(files)
	err := s.wire.Send(r, files...)
	container.CloseAll(ours)
	return ifListening(err)
}

// ifListening drops the error of a supervisor that has ended: listen hears why.
func ifListening(err error) error {
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return nil
	}
	return err
}

// restore adds the terminal to be put back.
func restoreWith(r *container.Request, files []*os.File, opt *AttachOptions) []*os.File {
	if opt == nil || opt.Restore == nil {
		return files
	}
	r.Restore = true
	return append(files, opt.Restore)
}

// connect makes the pipes of the streams. A stream of the caller's that is a pipe is
// handed over as it is; of all others the caller's end is served here, so that a
// supervisor never waits for a terminal or a disk. ours are those to be closed.
func (s *Session) connect(opt *AttachOptions, begin, terminal bool) (a *container.Attachment, files, ours []*os.File, err error) {
	a = &container.Attachment{Stdin: opt.Stdin != nil, Columns: opt.Columns, Rows: opt.Rows}
	for stream, f := range []*os.File{opt.Stdout, opt.Stderr} {
		if f == nil || terminal && stream == container.StreamErr {
			continue
		}
		a.Streams = append(a.Streams, stream)
		if isPipe(f) {
			files = append(files, f)
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			container.CloseAll(ours)
			return nil, nil, nil, fmt.Errorf("pipe: %w", err)
		}
		files, ours = append(files, w), append(ours, w)
		s.carry(f, r)
	}
	if begin && !terminal && opt.Stdin != nil && isPipe(opt.Stdin) {
		a.Passed = true
		files = append(files, opt.Stdin)
	}
	return a, files, ours, nil
}

func isPipe(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeNamedPipe != 0
}

// listen hears the supervisor to its end.
func (s *Session) listen() {
	defer s.wire.Close()
	begun := false
	say := func(err error) {
		if !begun {
			s.started <- startup{err}
		}
		begun = true
	}
	for {
		r, files, err := s.wire.ReceiveReply()
		switch {
		case err != nil:
			say(errors.New("the supervisor of the container has ended without a word"))
			s.ended <- s.lost(err)
			return
		case r.Event == container.EventStarted:
			s.setInput(files)
			if s.screen != nil && len(files) > 0 {
				s.carry(s.screen, files[0])
			}
			say(nil)
		case r.Event == container.EventWarning:
			container.PrintWarning(r.Error)
		case r.Event == container.EventFailed:
			failure := &StartError{r.Stage, r.Error}
			say(failure)
			s.ended <- container.Ending{Code: r.Stage, Err: failure}
			return
		case r.Event == container.EventEnded:
			say(nil)
			s.ended <- container.Ending{Code: r.Code, Err: sentences(r.Error)}
			return
		}
	}
}

// sentences is an error of the words of another process, nil if there are none.
func sentences(text string) error {
	if text == "" {
		return nil
	}
	return errors.New(text)
}

// lost is how a container has ended whose supervisor says nothing more: it was
// killed, or this end was closed.
func (s *Session) lost(cause error) container.Ending {
	if !errors.Is(cause, io.EOF) {
		return container.Ending{Code: container.CodeFailed, Err: cause}
	}
	state, err := s.engine.ReadState(s.ID)
	if err != nil || state.Up() {
		return container.Ending{Code: container.Killed, Err: err}
	}
	return container.Ending{Code: state.ExitCode}
}

// setInput takes over what typed text goes to. It comes again, another terminal, when
// the program is started again.
func (s *Session) setInput(files []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(files) == 0 {
		return
	}
	container.CloseAll([]*os.File{s.input})
	s.input = files[0]
}

// Started waits until the program runs. An error that is a [StartError] has the exit
// code that says why it does not.
func (s *Session) Started() error {
	up := <-s.started
	s.started <- up // for whoever asks again
	return up.err
}

// Input returns the program's terminal, or the pipe to its stdin, nil if there is
// neither. It stays the session's; what is typed is written to it.
func (s *Session) Input() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.input
}

// Pour copies from to the pipe to the program's stdin, and closes that at the end. It
// may never return, as a read of a terminal can not be called back: it ends with the
// process.
func (s *Session) Pour(from *os.File) {
	if in := s.Input(); in != nil {
		newCarrier(in, from).run()
		_ = in.Close() // a pipe
	}
}

// Signal has the supervisor send sig to the container's program. It may be called
// before that runs.
func (s *Session) Signal(sig unix.Signal) error {
	return s.wire.Send(container.Request{Do: container.DoSignal, Signal: sig})
}

// HangUp lets the container go on alone; Wait returns.
func (s *Session) HangUp() {
	_ = s.wire.Send(container.Request{Do: container.DoBye}) // it may have ended
	s.wire.HangUp()
}

// Detach is HangUp in the place of Wait.
func (s *Session) Detach() error {
	s.HangUp()
	return s.finish()
}

// Wait returns when the container has ended, everything of it is taken down, and all
// that it said is printed: its exit code.
func (s *Session) Wait() (int, error) {
	end := <-s.ended
	for _, c := range s.outputs {
		c.settle()
	}
	return end.Code, errors.Join(end.Err, s.finish())
}

// finish waits for what remains of the creation.
func (s *Session) finish() error {
	if s.created == nil {
		return nil
	}
	return <-s.created
}
