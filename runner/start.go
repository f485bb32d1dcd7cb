package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Descriptors of the init stage, after stdin, stdout and stderr.
const (
	configFD  = 3 // a memfd with the order as JSON
	controlFD = 4 // a socket: see link.go
	binaryFD  = 5 // the binary of the stage
)

// order is what the init stage is told.
type order struct {
	Config
	Null    [3]bool  // which of stdin, stdout, stderr are the container's /dev/null
	Filters [][]byte // of system calls, as seccomp.Program.Encode gives them
	// Ask says that the program asks about users and owners, where nobody listens to it yet.
	// AskAttributes: about all changes of owners and modes of files, too.
	Ask, AskAttributes bool
	lent

	who identity // of the stage, once it is worked out
}

// Start runs cfg.Args as process 1 of new mount, pid, uts, ipc and cgroup
// namespaces (and net, if asked) with cfg.Root as its root, and returns when
// the program has been executed. It needs CAP_SYS_ADMIN: root's, or that of a
// user namespace (see [StartSelf]).
//
// The program gets SIGKILL when this process ends, for whatever reason. The
// caller has to call Wait, and to close Console if there is one.
//
// Errors are sentences; errors.Is tells [ErrNotFound] and [ErrNotExecutable]
// from all others. Nothing is left running after an error. Start may be called
// from several goroutines.
func Start(cfg Config) (*Process, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	w, err := openPassage(&cfg, nil)
	if err != nil {
		return nil, err
	}
	defer w.close()
	p, err := launch(&cfg, w)
	if err != nil {
		return nil, err
	}
	if p.console, err = w.awaitExec(p.Pid(), cfg.Pretence); err != nil {
		return nil, p.abandon(err)
	}
	close(p.executed)
	return p, nil
}

// passage is what a stage is given on its way to the program, and our end of the
// connection to it.
type passage struct {
	config       *os.File
	binary       *os.File
	borrowed     bool       // binary is the caller's
	loans        []*os.File // what the stage could not open itself
	target       *os.File   // the process that an exec stage follows, the caller's; else nil
	ours, theirs *link
}

// openPassage opens it. target is a pidfd of who is in the container, if that is there
// already, or nil.
func openPassage(cfg *Config, target *os.File) (w *passage, err error) {
	w = &passage{target: target, binary: cfg.Stage, borrowed: cfg.Stage != nil}
	o := order{Config: *cfg}
	o.JoinedPID = cfg.sharesPIDs() && !cfg.HostPID
	err = w.lend(&o)
	if err == nil {
		w.config, err = writeOrder(&o)
	}
	if err == nil && !w.borrowed {
		w.binary, err = openBinary()
	}
	if err == nil {
		w.ours, w.theirs, err = newLink()
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// files are the descriptors of the stage, in the order of configFD and those after it.
func (w *passage) files() []*os.File {
	return append([]*os.File{w.config, w.theirs.file, w.binary}, w.loans...)
}

// awaitExec reads what the stage, of this pid, says until it has become the program, or
// failed. The stage has its end of the connection by now. What the program asks p answers.
func (w *passage) awaitExec(pid int, p *Pretence) (console *os.File, err error) {
	w.theirs.close()
	return w.ours.awaitExec(hearing{
		introduce: func(who string) error { return p.introduce(pid, who) },
		answer:    func(listener *os.File) { go p.answer(listener) },
	})
}

func (w *passage) close() {
	if w.config != nil {
		_ = w.config.Close() // a memfd
	}
	if w.binary != nil && !w.borrowed {
		_ = w.binary.Close() // only read
	}
	for _, f := range w.loans {
		_ = f.Close() // a mount that the stage has, or nothing was written
	}
	if w.ours != nil {
		w.ours.close()
		w.theirs.close() // for the second time, if the stage was started
	}
}

// writeOrder puts the order in memory that the init stage reads: unlike a pipe
// it takes any size without a reader.
func writeOrder(o *order) (*os.File, error) {
	ns, err := CurrentUserns()
	if err != nil {
		return nil, err
	}
	cfg := &o.Config
	o.Null = [3]bool{cfg.Stdin == nil, cfg.Stdout == nil, cfg.Stderr == nil}
	o.Rootless, o.Single = ns != nil || cfg.UIDs != nil, ns != nil && ns.Single
	filter, err := cfg.filter()
	if err != nil {
		return nil, err
	}
	if o.Ask = o.Single && cfg.Pretence != nil; o.Ask {
		o.AskAttributes = cfg.Pretence.kernel
	}
	if filter != nil {
		o.Filters = append(o.Filters, filter)
	}
	o.Seccomp = nil // it is in the filter
	data, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode the container's configuration: %w", err)
	}
	fd, err := unix.MemfdCreate("varve-config", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "varve-config")
	if _, err = f.Write(data); err != nil {
		return nil, errors.Join(fmt.Errorf("write the container's configuration: %w", err), f.Close())
	}
	return f, nil
}

// namespaces are those that the init stage is born in. That of control groups is
// not among them: its root is the group of who makes it, so the stage makes it,
// when it is in its own.
func namespaces(cfg *Config) uintptr {
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC)
	if cfg.Network == NoNetwork {
		flags |= unix.CLONE_NEWNET
	}
	if cfg.HostIPC || cfg.Shared.IPC != nil {
		flags &^= unix.CLONE_NEWIPC
	}
	if cfg.sharesPIDs() {
		flags &^= unix.CLONE_NEWPID
	}
	if cfg.HostUTS {
		flags &^= unix.CLONE_NEWUTS
	}
	return flags
}

// launch starts the init stage from a thread that does nothing else until the
// container has ended: the kernel's "parent" of PR_SET_PDEATHSIG is a thread,
// and Go ends threads when it likes, unless they are locked.
func launch(cfg *Config, w *passage) (*Process, error) {
	files := append([]*os.File{cfg.Stdin, cfg.Stdout, cfg.Stderr}, w.files()...)
	if cfg.Terminal {
		files[0], files[1], files[2] = nil, nil, nil
	}
	attr := &os.ProcAttr{
		Env:   []string{}, // not nil, which would be all of ours
		Files: files,
		Sys:   &syscall.SysProcAttr{Cloneflags: namespaces(cfg), Setsid: true},
	}
	if cfg.Group != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(cfg.Group.Fd())
	}
	if cfg.UIDs != nil {
		if err := giveStreams(cfg); err != nil {
			return nil, err
		}
		if cfg.Shared.Users == nil {
			bearInUserns(attr.Sys, cfg)
		}
	}
	p := &Process{executed: make(chan struct{}), done: make(chan struct{}), stage: cfg.Stage}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := cfg.Shared.join()
		if !cfg.Shared.any() { // else the thread ends with this goroutine
			defer runtime.UnlockOSThread()
		}
		if err == nil {
			err = p.bear(cfg, attr, w)
		}
		if p.grouped = attr.Sys.UseCgroupFD; err != nil && p.grouped {
			attr.Sys.UseCgroupFD, p.grouped = false, false
			attr.Env = []string{outsideEnv + "=1"}
			err = p.bear(cfg, attr, w)
		}
		if err == nil && cfg.sharesPIDs() {
			err = p.gather(cfg, w)
		}
		started <- err
		if err == nil {
			p.oversee()
		}
	}()
	if err := <-started; err != nil {
		return nil, explainClone(explainLimit(procDir, err, len(cfg.UIDs) > 0))
	}
	return p, nil
}

// bear starts the init stage in its namespaces.
func (p *Process) bear(cfg *Config, attr *os.ProcAttr, w *passage) error {
	if cfg.Shared.Users == nil || cfg.UIDs == nil {
		return p.forkAs(initName, attr)
	}
	return p.leap(initName, cfg, attr, w, cfg.Shared.Users, 0, int(attr.Sys.Cloneflags), nil)
}

// forkAs starts the stage of this name.
func (p *Process) forkAs(stage string, attr *os.ProcAttr) (err error) {
	err = withSlack(func() (err error) {
		p.proc, err = startProcess(fmt.Sprintf("/proc/self/fd/%d", binaryFD), []string{stage}, attr)
		return err
	})
	if err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	return p.noteStart()
}

// noteStart notes when the process was made. It is not reaped yet, so the number is surely
// still this one.
func (p *Process) noteStart() (err error) {
	if p.startTime, err = ProcessStartTime(p.proc.pid); err != nil {
		return errors.Join(err, p.proc.end())
	}
	return nil
}

func explainClone(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: new namespaces need root (CAP_SYS_ADMIN) or a user namespace", err)
	}
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w: a limit under /proc/sys/user (max_pid_namespaces, max_mnt_namespaces, …) is reached", err)
	}
	return err
}
