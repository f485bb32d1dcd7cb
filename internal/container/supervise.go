package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/internal/stage"
	"github.com/varvefs/varve/runner"
	"github.com/varvefs/varve/unionfs"
)

// The exit codes of a container that has no exit code of its own, docker's.
const (
	CodeFailed        = 125 // varve failed
	CodeNotExecutable = 126
	codeNotFound      = 127
)

// A supervisor is the process of one container, from its view to its end.
type supervisor struct {
	place     Place
	stage     *os.File // nil: this program itself is the stage
	spec      Spec
	dir       int // of the container
	signals   chan os.Signal
	chain     Chain
	server    view
	unindexed bool             // the chain has no index
	pretence  *runner.Pretence // nil unless there is a single id
	missing   []string         // controllers that can not limit the container
	log       *LogFile
	out       [2]*outflow // by stream
	door      *controlSocket
	awaits    bool          // the word that the container is recorded
	trash     *layout.Stage // the files of a container that is removed
	passed    *os.File      // stdin of the one who started the container, if it is the program's

	mounted chan struct{} // closed when the view is there

	ended  chan struct{} // closed when the container is at its end, and ending final
	ending Ending
	owed   sync.WaitGroup // of those who are to be told

	holding sync.Mutex // guards the two below, and is held while the programs are stopped or let go
	holders int        // guests for whom they stand still
	froze   bool       // for the first of them; else they stood still before

	mu       sync.Mutex // guards all below
	state    State
	process  *runner.Process // nil while there is none
	stdin    *os.File        // the other end of the program's stdin; nil if it has none
	input    *os.File        // the program's stdin, of one that may be started again
	inlet    *os.File        // the other end of that; nil when only who was attached has it
	sessions map[*guest]bool
	early    []unix.Signal // for a program that does not run yet
	halt     chan struct{} // closed when the program is not to be started again
	halted   bool
	columns  uint16 // of its terminal
	rows     uint16
	couriers map[*runner.Child]bool // that copy files
	closing  bool                   // the view is about to go, or has gone

	away sync.WaitGroup // of the couriers
}

// Supervise is what the hidden verb does in the process that Run and Start start: it
// mounts the view, runs the container's program, waits for its end, and takes
// everything down again. It returns the exit code of the program; the error, if not
// nil, is why there is none. Who started it is told by its connection, the
// descriptor 3: the first request says that the container is recorded, the end of the
// connection that there will be none.
func Supervise(root, id string, program *os.File) (code int, err error) {
	s := &supervisor{
		place: Place{Dir: layout.At(root, nil), program: program}, signals: make(chan os.Signal, 32), mounted: make(chan struct{}), ended: make(chan struct{}), sessions: map[*guest]bool{}, halt: make(chan struct{}),
	}
	signal.Notify(s.signals, ForwardedSignals()...)
	w, err := NewWire(os.NewFile(ControlFD, "control"))
	if err != nil {
		return CodeFailed, err
	}
	s.stage, _ = stage.Open(s.place.StageDir()) // there is nothing else to do now; without it a start is slower
	first, files, err := w.ReceiveRequest()
	if errors.Is(err, io.EOF) { // who started this process says why
		return CodeFailed, nil
	}
	if err == nil && first.Do != DoBegin {
		err = fmt.Errorf("control connection: %q before %q", first.Do, DoBegin)
	}
	if err != nil {
		return CodeFailed, err
	}
	starter := s.newGuest(w)
	s.awaits = first.Await
	if err = s.begin(id); err == nil {
		err = s.admit(starter, first.Attach, starter.unwrap(first, files))
	}
	if err == nil {
		code, err = s.live(starter)
	} else if recordErr := s.awaitRecord(starter); recordErr != nil {
		err = recordErr
	}
	if err != nil {
		code = exitCodeOf(err)
	}
	err = errors.Join(err, s.end(code, err))
	if errors.Is(err, errUnrecorded) {
		return CodeFailed, nil
	}
	s.farewell(starter, code, err)
	return code, errors.Join(err, s.trash.Discard()) // nobody waits for that
}

// begin leaves what is the starter's, reads what is to be done, and opens the door.
func (s *supervisor) begin(id string) (err error) {
	if s.spec, err = s.place.ReadSpec(id); err != nil {
		return err
	}
	for _, step := range []func(*Sandbox) error{s.place.CheckDonors, s.place.followDonors, s.place.MapOwnID} {
		if err = step(&s.spec.Sandbox); err != nil {
			return err
		}
	}
	if s.dir, err = at.OpenDir(at.CWD, s.place.ContainerDir(id)); err != nil {
		return err
	}
	if s.state, err = s.place.ReadState(id); err != nil {
		return err
	}
	s.state.Stopped = false
	s.state.Error, s.state.Restarts, s.state.Group = "", 0, s.planGroup()
	if err = s.place.WriteState(id, s.state); err != nil {
		return err
	}
	if err = s.leaveStarter(); err != nil {
		return err
	}
	if s.spec.Log.Driver != LogNone {
		if s.log, err = OpenLog(s.dir, s.spec.Log); err != nil {
			return err
		}
	}
	for stream := range s.out {
		s.out[stream] = &outflow{stream: stream, log: s.log}
	}
	s.door, err = s.openDoor()
	return err
}

// complaintsName is what a supervisor itself has to say: why it ended, should it
// crash.
const complaintsName = "supervisor.log"

// leaveStarter lets go of the directory and the stderr of the one who started this
// process, which may outlive them.
func (s *supervisor) leaveStarter() error {
	if err := os.Chdir("/"); err != nil {
		return err
	}
	fd, err := at.Open(s.dir, complaintsName, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	return os.NewSyscallError("dup3", unix.Dup3(fd, 2, 0))
}

// exitCodeOf is the exit code that says why a program could not be run.
func exitCodeOf(err error) int {
	switch {
	case errors.Is(err, runner.ErrNotFound):
		return codeNotFound
	case errors.Is(err, runner.ErrNotExecutable):
		return CodeNotExecutable
	}
	return CodeFailed
}

// live mounts the view and runs the program in it, again and again if that is its
// policy.
func (s *supervisor) live(starter *guest) (int, error) {
	err := s.mount(func(text string) {
		_ = starter.wire.Send(Reply{Event: EventWarning, Error: text}) // it may be gone
	})
	if recordErr := s.awaitRecord(starter); err == nil {
		err = recordErr
	}
	if err != nil {
		return 0, err
	}
	close(s.mounted)
	if starter.foreground {
		s.note("attach", nil)
	}
	pause := firstPause
	for {
		streams, err := s.start()
		if err != nil {
			return 0, err
		}
		if starter != nil {
			TuneForServing()
			runner.WakePromptly()
			if s.unindexed {
				s.place.indexInBackground(s.spec.Layers)
			}
			go s.relay()
			s.welcome(starter)
			go s.listen(starter)
			starter = nil
		} else {
			s.showTerminals()
		}
		began := time.Now()
		code, err := s.process.Wait()
		streams.settle()
		s.noteDeath(code, time.Since(began))
		if err != nil || !s.spec.Restart.Again(code, s.restarts()) {
			return code, err
		}
		if time.Since(began) >= longRun {
			pause = firstPause
		}
		if !s.rest(code, pause) {
			return code, nil
		}
		pause = min(2*pause, longestPause)
	}
}

// errUnrecorded: there will be no container.
var errUnrecorded = errors.New("it was not recorded")

// awaitRecord waits for the word that the container is recorded, if there is to be one.
// Signals may come before.
func (s *supervisor) awaitRecord(starter *guest) error {
	for s.awaits {
		r, files, err := starter.wire.ReceiveRequest()
		if err != nil {
			return errUnrecorded // who started this process says why
		}
		if r.Do == DoRecorded {
			s.awaits = false
			return nil
		}
		if err := s.answer(starter, r, files); err != nil {
			return err
		}
	}
	return nil
}

// How long a container rests before it is started again: docker's figures.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = time.Minute
	longRun      = 10 * time.Second // after it the first pause is due again
)

func (s *supervisor) restarts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Restarts
}

// rest waits until the program is to be started again; false is never.
func (s *supervisor) rest(code int, pause time.Duration) bool {
	err := s.removeGroup() // the next run has one of its own
	s.mu.Lock()
	s.process = nil
	s.state.Group = s.planGroup()
	s.state.Status, s.state.ExitCode, s.state.Finished, s.state.Init = Restarting, code, time.Now().UTC(), Proc{}
	halted := s.halted
	if !halted {
		s.keepStateLocked()
	}
	s.mu.Unlock()
	if err != nil {
		fmt.Fprintln(os.Stderr, "varve:", err) // what keeps it may be gone at the end
	}
	if halted {
		return false
	}
	select {
	case <-s.halt:
		return false
	case <-time.After(pause):
	}
	s.mu.Lock()
	s.state.Restarts++
	s.mu.Unlock()
	return true
}

// note notes what has happened to the container; attributes may be nil.
func (s *supervisor) note(action string, attributes map[string]string) {
	s.place.NoteContainer(s.spec.ID, action, attributes)
}

// noteDeath notes that the program has ended, and whether the kernel has killed a process
// for want of memory.
func (s *supervisor) noteDeath(code int, lived time.Duration) {
	if s.spec.Sandbox.Limits.Memory > 0 && s.state.Group.OOMKilled() {
		s.note("oom", nil)
	}
	s.note("die", map[string]string{"exitCode": strconv.Itoa(code), "execDuration": strconv.Itoa(int(lived.Seconds()))})
}

// keepStateLocked writes the state of a container that goes on. If it can not be
// written, as on a full disk, what is there stays: the program matters more.
// Preconditions: s.mu is held.
func (s *supervisor) keepStateLocked() {
	if err := s.place.WriteState(s.spec.ID, s.state); err != nil {
		fmt.Fprintln(os.Stderr, "varve:", err)
	}
}

// mount makes the view in this process's own mount namespace. warn is told what it has to
// do without, before that takes its time.
func (s *supervisor) mount(warn func(text string)) error {
	chain, err := s.place.Chain(s.spec.Layers)
	if err != nil {
		return err
	}
	shown, err := IDsOf(s.spec)
	if err != nil {
		return err
	}
	if err := s.place.settleCopy(s.spec.ID); err != nil {
		return err
	}
	dir := s.place.ContainerDir(s.spec.ID)
	if err := dressRoot(filepath.Join(dir, UpperName), chain.Lowers[0]); err != nil {
		return fmt.Errorf("prepare the root directory: %w", err)
	}
	s.chain = chain
	unix.Umask(0) // the modes of new files are the program's, and come with its umask
	view := unionfs.Options{
		Upper: filepath.Join(dir, UpperName), Work: filepath.Join(dir, WorkName),
		AllowOther: true, Suid: true, Dev: true, OverflowRoot: shown.Overflow,
		NoRedirect: true, NoMetacopy: true, // an image layer can hold neither
		UIDs: viewIDs(s.spec.Sandbox.UIDs), GIDs: viewIDs(s.spec.Sandbox.GIDs),
	}
	if shown.Single {
		if err := dressSingle(view.Upper, chain.Lowers[0]); err != nil {
			return fmt.Errorf("prepare the root directory: %w", err)
		}
		if err := s.place.keepOwners(&view); err != nil {
			return err
		}
		if len(view.UIDs) == 0 { // else there is no root to be pretended
			s.pretence = runner.NewPretence(filepath.Join(dir, ViewName), s.stage)
			view.Creator, view.Tell = s.pretence.Owner, s.pretence.Tell
		}
	}
	s.server, s.unindexed, err = s.place.mountChain(filepath.Join(dir, ViewName), chain, view)
	var none *noViewError
	if errors.As(err, &none) {
		s.server, err = s.mountCopy(none, warn)
	}
	if _, ours := s.server.(*unionfs.Server); !ours && s.pretence != nil {
		s.pretence.KeepAttributes()
	}
	return err
}

// start runs the program, and lets its streams flow.
func (s *supervisor) start() (*streams, error) {
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	cfg.Init = s.spec.Init
	if err = s.dressEtc(&cfg); err != nil {
		return nil, err
	}
	if cfg.Shared, err = s.place.openDonors(&s.spec.Sandbox); err != nil {
		return nil, err
	}
	defer closeShared(cfg.Shared)
	f, err := s.openStreams(&cfg)
	if err != nil {
		return nil, err
	}
	process, err := s.startInGroup(cfg)
	f.closeTheirs()
	if err != nil {
		f.closeOurs()
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process = process
	s.state.Status, s.state.Started = Running, time.Now().UTC()
	s.state.Init = Proc{process.Pid(), process.StartTime()}
	s.state.Health = ""
	if s.spec.hasHealth() {
		s.state.Health = healthStarting
	}
	if err = s.place.WriteState(s.spec.ID, s.state); err != nil { // without it nobody could stop or see it
		_ = process.Signal(unix.SIGKILL) // it may have ended already
		_, waitErr := process.Wait()
		f.closeOurs()
		return nil, errors.Join(err, waitErr)
	}
	s.note("start", nil)
	if s.state.Health != "" {
		go s.watchHealth(process, s.state.Started)
	}
	f.flow(s, process)
	for _, sig := range s.early {
		_ = process.Signal(sig) // it may have ended
	}
	s.early = nil
	return f, nil
}

func (s *supervisor) config() (runner.Config, error) {
	ns, err := runner.CurrentUserns()
	if err != nil {
		return runner.Config{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return runner.Config{
		Root: filepath.Join(s.place.ContainerDir(s.spec.ID), ViewName),
		Args: s.spec.Args, Env: s.spec.Env, Cwd: s.spec.Cwd, Hostname: s.spec.Hostname, Mounts: s.spec.Mounts,
		Terminal: s.spec.Terminal, Columns: s.columns, Rows: s.rows,
		Rootless: ns != nil, Single: ns != nil && ns.Single, Stage: s.stage, Pretence: s.pretence,
	}, nil
}

// relay hands the signals that this process gets to the program, to its end.
func (s *supervisor) relay() {
	for {
		select {
		case sig := <-s.signals:
			if n, ok := sig.(unix.Signal); ok {
				s.signal(n)
			}
		case <-s.ended:
			return
		}
	}
}

// end takes the view down and writes how it went; a container that was to be
// removed is. failure is why the program could not be run.
func (s *supervisor) end(code int, failure error) error {
	if s.dir == 0 { // there is no container
		return nil
	}
	errs := []error{s.door.close()}
	s.recallCouriers()
	if s.pretence != nil {
		errs = append(errs, s.pretence.Close())
	}
	switch {
	case s.server == nil:
	case s.spec.Remove: // nothing in it matters, and all programs have ended
		errs = append(errs, s.server.Detach())
	default:
		errs = append(errs, s.server.Unmount())
	}
	s.log.Close()
	errs = append(errs, s.removeGroup())
	if s.awaits { // the directory is no container's
		return errors.Join(errs...)
	}
	if s.spec.Remove {
		var err error
		s.trash, err = s.place.TrashContainer(s.spec.ID)
		s.note("destroy", nil)
		return errors.Join(append(errs, err)...)
	}
	if s.server != nil {
		upper := filepath.Join(s.place.ContainerDir(s.spec.ID), UpperName)
		errs = append(errs, TidyMountPoints(upper, s.chain.Lowers))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Up() {
		s.state.Status, s.state.Finished = Exited, time.Now().UTC()
	}
	if s.state.Health != "" { // docker's word for one that is not checked any more
		s.state.Health = healthUnhealthy
	}
	// All is done but to tell: who reads this need not wait for this process.
	s.state.ExitCode, s.state.Init, s.state.Supervisor = code, Proc{}, Proc{}
	if failure != nil {
		s.state.Error = failure.Error()
	}
	return errors.Join(append(errs, s.place.WriteState(s.spec.ID, s.state))...)
}

// ControlFD is the supervisor's end of the connection to the one who started it.
const ControlFD = 3

// farewellPatience is how long those who are to be told of the end may take.
const farewellPatience = 2 * time.Second

// farewell tells all who wait that the container has ended, and how.
func (s *supervisor) farewell(starter *guest, code int, err error) {
	for _, o := range s.out {
		if o != nil {
			o.closeAll()
		}
	}
	s.ending = Ending{code, err}
	close(s.ended)
	if s.process == nil && err != nil { // the program never ran
		_ = starter.wire.Send(Reply{Event: EventFailed, Stage: code, Error: err.Error()}) // it may not listen
	}
	told := make(chan struct{})
	go func() { s.owed.Wait(); close(told) }()
	select {
	case <-told:
	case <-time.After(farewellPatience):
	}
}
