package runner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Self is this binary run again by [StartSelf].
type Self struct {
	// Program is what runs in its place, whose main calls [Stage], too; nil is this
	// binary. It stays the caller's.
	Program *os.File

	Args []string // with Args[0], the name that ps shows
	Env  []string // nil is the environment of this process

	Stdin, Stdout, Stderr *os.File   // nil is /dev/null
	Files                 []*os.File // descriptors 3 and up, in this order

	Userns        *Userns // nil stays in the user namespace of this process
	Setsid        bool    // a session of its own, without a terminal
	PrivateMounts bool    // a mount namespace of its own; always so with Userns
	Slack         bool    // much timer slack, until it calls [WakePromptly]: it starts quicker
	// Into is a pidfd of a process whose user namespace the new one is in, in the place of
	// Userns; nil is none. It stays the caller's. That namespace has to be one that its user made.
	Into *os.File
}

// Child is a process that [StartSelf] has started. Its methods may be called
// from several goroutines, but Wait only once.
type Child struct {
	proc *process

	// Userns is the namespace that the child has, nil if none was asked for.
	Userns *Userns
	// Fallback says why a child for whom a range was planned has a single id:
	// what newuidmap or newgidmap said, and what to do. nil if that is not so.
	Fallback error
}

// Pid returns the process id of the child, as this process sees it.
func (c *Child) Pid() int { return c.proc.pid }

// Signal sends sig to the child; if it has ended that is os.ErrProcessDone.
func (c *Child) Signal(sig unix.Signal) error { return c.proc.signal(sig) }

// Wait returns the child's exit code when it has ended, or 128+n after signal n.
func (c *Child) Wait() (code int, err error) {
	defer c.proc.release()
	return c.proc.wait()
}

// Release says that nobody will wait for the child, which lives on.
func (c *Child) Release() { c.proc.release() }

// StartSelf runs this binary (/proc/self/exe) again. In the child [Stage]
// returns when its namespaces are complete, and main goes on as user 0 of the
// new user namespace with all capabilities there, if one was asked for, and in
// a mount namespace that sees what is mounted on the host but not the reverse.
//
// Where a range was planned and newuidmap or newgidmap refuses it, the child
// gets a single id instead and Child.Fallback says why: an ordinary user has
// often no say about /etc/subuid, and a container with one id is better than
// none. The child itself asks [CurrentUserns] what it got.
//
// The files stay the caller's. StartSelf may be called from several goroutines.
func StartSelf(s Self) (*Child, error) {
	if s.Userns == nil || s.Userns.Single {
		return startSelf(s)
	}
	c, err := startSelf(s)
	var refused *mapError
	if !errors.As(err, &refused) {
		return c, err
	}
	s.Userns = SingleUserns(refused.Error())
	if c, err = startSelf(s); err != nil {
		return nil, errors.Join(err, refused)
	}
	c.Fallback = refused
	return c, nil
}

func startSelf(s Self) (*Child, error) {
	files, null, err := s.files()
	if err != nil {
		return nil, err
	}
	defer func() { _ = null.Close() }() // /dev/null
	if err := keepInherited(); err != nil {
		return nil, err
	}
	// The child reads gate; one byte in opener lets it through.
	gate, opener, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	attr := &os.ProcAttr{Files: append(files, gate), Sys: s.attributes(), Env: s.environment(len(files))}
	path := selfExe
	if s.isPassed() {
		path = fmt.Sprintf("/proc/self/fd/%d", len(attr.Files))
		attr.Files = append(attr.Files, s.Program)
	}
	var proc *process
	err = s.slack(func() (err error) {
		if s.Into != nil {
			proc, err = s.leap(attr)
		} else {
			proc, err = startProcess(path, s.Args, attr)
		}
		return err
	})
	_ = gate.Close() // the child has it
	if err != nil {
		_ = opener.Close() // nothing was written
		return nil, explainUserns(fmt.Errorf("start %s again: %w", path, err), s.Userns)
	}
	c := &Child{proc: proc, Userns: s.Userns}
	if err = errors.Join(c.open(opener), opener.Close()); err != nil {
		return nil, c.abandon(err)
	}
	return c, nil
}

// slack calls fork, with slack for the child if it is to have it.
func (s *Self) slack(fork func() error) error {
	if s.Slack {
		return withSlack(fork)
	}
	return fork()
}

// isPassed tells whether the child gets its program as the descriptor behind the gate.
func (s *Self) isPassed() bool { return s.Program != nil && s.Into == nil }

// leap starts the child in the user namespace of another process. attr is as for
// os.StartProcess.
func (s *Self) leap(attr *os.ProcAttr) (*process, error) {
	binary := s.Program
	if binary == nil {
		var err error
		if binary, err = OwnFile(); err != nil {
			return nil, err
		}
		defer func() { _ = binary.Close() }() // O_PATH
	}
	l := leap{binary: binary, args: s.Args, env: attr.Env, files: attr.Files, session: s.Setsid,
		target: s.Into, spaces: unix.CLONE_NEWUSER, fresh: int(attr.Sys.Cloneflags)}
	pid, err := l.start()
	if err != nil {
		return nil, err
	}
	return findProcess(pid)
}

// OwnFile returns this binary, open to be executed and for nothing else, also when its
// file has been replaced or removed. It is the caller's to close.
func OwnFile() (*os.File, error) {
	fd, err := unix.Open(selfExe, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: selfExe, Err: err}
	}
	return os.NewFile(uintptr(fd), selfExe), nil
}

// keepInherited has no process that this one starts get a descriptor that this one
// was given by whoever started it: a container, its supervisor and its watch live
// longer than what such a one may hold (a lock, the end of a pipe). The child itself
// could not close them: it would take Go's own for some.
func keepInherited() error {
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", tooOld(err))
	}
	return nil
}

// files lists the child's descriptors, with null where there is to be none.
func (s *Self) files() (list []*os.File, null *os.File, err error) {
	if null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return nil, nil, err
	}
	list = append([]*os.File{s.Stdin, s.Stdout, s.Stderr}, s.Files...)
	for i := range 3 {
		if list[i] == nil {
			list[i] = null
		}
	}
	return list, null, nil
}

// attributes asks for the namespaces. With a range the ids are mapped only
// after execve, so the child executes as nobody, and would lose its
// capabilities if they were not ambient. That saves a second execve.
func (s *Self) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: s.Setsid}
	if s.PrivateMounts || s.Userns != nil {
		attr.Cloneflags |= unix.CLONE_NEWNS
	}
	if s.Userns == nil {
		return attr
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	if !s.Userns.Single {
		attr.AmbientCaps = everyCapability()
		return attr
	}
	attr.UidMappings, attr.GidMappings = sysMap(s.Userns.UIDs), sysMap(s.Userns.GIDs)
	return attr // GidMappingsEnableSetgroups stays false: the kernel's condition
}

func sysMap(ids []IDMap) []syscall.SysProcIDMap {
	var list []syscall.SysProcIDMap
	for _, m := range ids {
		list = append(list, syscall.SysProcIDMap{ContainerID: m.Inside, HostID: m.Outside, Size: m.Size})
	}
	return list
}

// environment adds what Stage has to know: the number of the gate, whether the mounts are
// the child's own, and whether the descriptor behind the gate is its program.
func (s *Self) environment(gate int) []string {
	env := s.Env
	if env == nil {
		env = os.Environ()
	}
	order := stageEnv + "=" + strconv.Itoa(gate)
	if s.PrivateMounts || s.Userns != nil {
		order += " mounts"
	}
	if s.isPassed() {
		order += " program"
	}
	return append(env[:len(env):len(env)], order)
}

// open maps the ids, if they are not yet, and lets the child go on.
func (c *Child) open(gate *os.File) error {
	if c.Userns != nil && !c.Userns.Single {
		if err := c.Userns.writeTo(c.proc.pid); err != nil {
			return err
		}
	}
	if _, err := gate.Write([]byte{1}); err != nil {
		return fmt.Errorf("let process %d go on: %w", c.proc.pid, err)
	}
	return nil
}

func (c *Child) abandon(cause error) error {
	return errors.Join(cause, c.proc.end())
}

// selfStage is the child's side, at the top of its main. order is the number of
// the gate, and "mounts", "program", or both.
func selfStage(order []string) {
	err := os.Unsetenv(stageEnv)
	if err == nil {
		err = passGate(order[0], slices.Contains(order, "program"))
	}
	if err == nil && slices.Contains(order, "mounts") {
		if err = ownMounts(); err != nil { // Linux lets namespaces be made that give no power
			ns, nsErr := CurrentUserns()
			err = errors.Join(explainUserns(err, ns), nsErr)
		}
	}
	if err == nil {
		return
	}
	// At end of file the parent has died or given up, and tells why itself.
	if !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, "varve:", err)
	}
	os.Exit(125)
}

func passGate(number string, program bool) error {
	fd, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("%s: %w", stageEnv, err)
	}
	if program {
		_ = unix.Close(fd + 1) // it runs
	}
	gate := os.NewFile(uintptr(fd), "varve-gate")
	if _, err = io.ReadFull(gate, make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for the ids of the user namespace: %w", err)
	}
	if err = gate.Close(); err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	return nil
}

// ownMounts makes the mounts slaves of the host's: what is unmounted there is
// unmounted here, so a container does not keep a device busy.
func ownMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make the mounts our own: %w", err)
	}
	return nil
}
