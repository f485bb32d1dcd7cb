package runner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel lets nobody enter a user namespace who has several threads, as every Go
// program has, and os.StartProcess knows no way to enter namespaces in between. So a process
// in namespaces that are there already is started by hand: a fork, in which only system calls
// are made until it executes a program.

// leap is such a start.
type leap struct {
	binary    *os.File // what is executed
	args, env []string
	files     []*os.File // descriptors from 0 on; nil is closed
	group     *os.File   // as Config.Group
	session   bool       // a session of its own
	foreign   bool       // it is the child of this process's parent

	target *os.File // a pidfd of who is in the namespaces
	spaces int      // which of them are entered, CLONE_NEW…; with CLONE_NEWPID by one more fork, when all others are
	fresh  int      // which are made then; likewise
	as     leapAs
}

// leapAs says who the process is in the user namespace.
type leapAs int

const (
	asBefore     leapAs = iota // the same, with other words for it
	asRoot                     // root, without other groups
	asRootGroups               // root, where groups can not be changed
	asAbler                    // the same, with all capabilities, also of the program
)

// start returns the number of the process when it has executed the program.
func (l *leap) start() (int, error) { return settle(l.jump()) }

// settle reaps those of the processes of jump that have done their work: all but the last,
// which is what was to be started, or all after an error.
func settle(pids []int, err error) (pid int, _ error) {
	for i, one := range pids {
		if err == nil && i == len(pids)-1 {
			return one, nil
		}
		err = errors.Join(err, reap(one))
	}
	return 0, fmt.Errorf("enter the namespaces: %w", err)
}

// jump starts the process, and tells which others it took; the caller, or its parent if it is
// foreign, has to reap them.
func (l *leap) jump() (pids []int, err error) {
	broken, told, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	defer func() { _ = broken.Close() }() // only read
	c, err := l.prepare(told)
	pid := 0
	if err == nil {
		pid, err = c.start()
	}
	c.close()
	if err = errors.Join(err, told.Close()); err != nil {
		return nil, err
	}
	pids = []int{pid}
	word, err := io.ReadAll(broken)
	if len(word) >= 8 && binary.LittleEndian.Uint32(word) == leapSecond {
		pids, word = append(pids, int(binary.LittleEndian.Uint32(word[4:]))), word[8:]
	}
	if len(word) >= 8 {
		err = errors.Join(err, unix.Errno(binary.LittleEndian.Uint32(word[4:])))
	}
	return pids, err
}

// reap waits for the end of a child that os knows nothing of.
func reap(pid int) error {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return os.NewSyscallError("wait4", err)
		}
	}
}

// What the child tells is two numbers: what it is, and which.
const (
	leapFailed = iota // an errno
	leapSecond        // the number of the second child, which goes on
)

// leapChild is all that the child needs, made beforehand, as it can not allocate.
type leapChild struct {
	clone   cloneArgs
	second  cloneArgs // of the second fork
	again   bool      // whether there is one
	files   []int     // copies above all numbers that they get; -1 is closed
	kept    int       // how many stay open over execve
	target  uintptr
	spaces  uintptr
	fresh   uintptr
	binary  uintptr
	told    uintptr
	session bool
	as      leapAs
	empty   *byte
	argv    []*byte
	envv    []*byte
	caps    [2]unix.CapUserData
	header  unix.CapUserHeader
	word    [8]byte // what is told
}

// cloneArgs is struct clone_args of clone3(2), as of Linux 5.7.
type cloneArgs struct {
	Flags, PidFD, ChildTID, ParentTID, ExitSignal, Stack, StackSize, TLS, SetTID, SetTIDSize, Cgroup uint64
}

// prepare makes the child's. The caller calls close, also after an error.
func (l *leap) prepare(told *os.File) (*leapChild, error) {
	kept := len(l.files)
	c := &leapChild{clone: cloneArgs{ExitSignal: uint64(unix.SIGCHLD)}, kept: kept, session: l.session, as: l.as,
		target: uintptr(kept), binary: uintptr(kept + 1), told: uintptr(kept + 2), spaces: uintptr(l.spaces), fresh: uintptr(l.fresh)}
	if l.foreign {
		c.clone = cloneArgs{Flags: unix.CLONE_PARENT}
	}
	if l.group != nil {
		c.clone.Flags |= unix.CLONE_INTO_CGROUP
		c.clone.Cgroup = uint64(l.group.Fd())
	}
	if (l.spaces|l.fresh)&unix.CLONE_NEWPID != 0 { // of which nobody becomes a member later
		c.again, c.fresh = true, 0
		c.second.Flags = uint64(l.fresh) | unix.CLONE_PARENT
	}
	c.header.Version = unix.LINUX_CAPABILITY_VERSION_3
	for i := range c.caps {
		c.caps[i] = unix.CapUserData{Effective: ^uint32(0), Permitted: ^uint32(0), Inheritable: ^uint32(0)}
	}
	list := append(l.files[:kept:kept], l.target, l.binary, told)
	for _, f := range list {
		fd, err := -1, error(nil)
		if f != nil {
			fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3+len(list))
		}
		if err != nil {
			return c, os.NewSyscallError("fcntl", err)
		}
		c.files = append(c.files, fd)
	}
	var err error
	if c.argv, err = syscall.SlicePtrFromStrings(l.args); err == nil {
		c.envv, err = syscall.SlicePtrFromStrings(l.env)
	}
	if err == nil {
		c.empty, err = syscall.BytePtrFromString("")
	}
	return c, err
}

func (c *leapChild) close() {
	for _, fd := range c.files {
		_ = unix.Close(fd) // a copy, or none
	}
}

// start forks with all signals blocked: none of Go's handlers may run in the child, which
// has them unblocked only as its program does that.
func (c *leapChild) start() (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	syscall.ForkLock.Lock() // no descriptor without close-on-exec is about
	defer syscall.ForkLock.Unlock()
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return 0, fmt.Errorf("block the signals: %w", err)
	}
	pid, errno := c.fork(&before)
	runtime.KeepAlive(c)
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil); err != nil {
		return 0, fmt.Errorf("unblock the signals: %w", err)
	}
	if errno != 0 {
		return 0, os.NewSyscallError("clone3", errno)
	}
	return int(pid), nil
}

// fork returns in the parent only. (Of two children the second is the parent's, too.) What the child does is what os.StartProcess has its
// children do, and one thing more. From the first step on nobody in the container can look
// into it, and it becomes somebody there when it has entered all of the namespaces.
//
//go:norace
//go:nosplit
//go:noinline
func (c *leapChild) fork(signals *unix.Sigset_t) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&c.clone)), unsafe.Sizeof(c.clone), 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	_, _, errno = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0)
	for i := 0; i < len(c.files) && errno == 0; i++ {
		flags := uintptr(0)
		if i >= c.kept {
			flags = unix.O_CLOEXEC
		}
		if c.files[i] >= 0 {
			_, _, errno = syscall.RawSyscall(unix.SYS_DUP3, uintptr(c.files[i]), uintptr(i), flags)
		} else {
			_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(i), 0, 0) // it may not be open
		}
	}
	if errno == 0 { // what is open here and nobody's inside is gone before anybody can look
		_, _, errno = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, c.told+1, ^uintptr(0)>>32, 0)
	}
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_SETNS, c.target, c.spaces, 0)
	}
	if errno == 0 && c.again {
		pid, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&c.second)), unsafe.Sizeof(c.second), 0)
		if errno == 0 && pid != 0 {
			c.tell(leapSecond, pid)
		}
	}
	if errno == 0 && c.session {
		_, _, errno = syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	}
	if errno == 0 && c.fresh != 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_UNSHARE, c.fresh, 0, 0)
	}
	if errno == 0 {
		errno = c.become()
	}
	if errno == 0 {
		_, _, errno = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(signals)), 0, 8, 0, 0)
	}
	if errno == 0 {
		_, _, errno = syscall.RawSyscall6(unix.SYS_EXECVEAT, c.binary, uintptr(unsafe.Pointer(c.empty)),
			uintptr(unsafe.Pointer(&c.argv[0])), uintptr(unsafe.Pointer(&c.envv[0])), unix.AT_EMPTY_PATH, 0)
	}
	c.tell(leapFailed, uintptr(errno))
	return 0, 0 // never
}

// tell is the last that a child does.
//
//go:norace
//go:nosplit
//go:noinline
func (c *leapChild) tell(what byte, number uintptr) {
	c.word[0] = what
	for i := range 4 {
		c.word[4+i] = byte(number >> (8 * i))
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, c.told, uintptr(unsafe.Pointer(&c.word)), unsafe.Sizeof(c.word))
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 125, 0, 0)
	}
}

// become is the child's step into who it is to be.
//
//go:norace
//go:nosplit
//go:noinline
func (c *leapChild) become() (errno syscall.Errno) {
	if c.as == asRoot {
		_, _, errno = syscall.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
	}
	if errno == 0 && (c.as == asRoot || c.as == asRootGroups) {
		if _, _, errno = syscall.RawSyscall(unix.SYS_SETRESGID, 0, 0, 0); errno == 0 {
			_, _, errno = syscall.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0)
		}
	}
	if errno != 0 || c.as != asAbler {
		return errno
	}
	_, _, errno = syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&c.header)), uintptr(unsafe.Pointer(&c.caps)), 0)
	for n := uintptr(0); n <= unix.CAP_LAST_CAP; n++ { // some may be unknown here
		_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n, 0, 0, 0)
	}
	return errno
}

// leapAs is who a stage becomes in the user namespace of the container.
func (c *Config) leapAs() leapAs {
	switch {
	case !c.hasRoot():
		return asAbler
	case c.Single:
		return asRootGroups
	}
	return asRoot
}

// leap starts a stage in namespaces of the process behind target; if the container has a user
// namespace of its own in that, too, as the root there if there is one. fresh are those that
// are made for it. by is who forks; nil is this process.
func (p *Process) leap(stage string, cfg *Config, attr *os.ProcAttr, w *passage, target *os.File, spaces, fresh int, by *watch) error {
	l := leap{binary: w.binary, args: []string{stage}, env: attr.Env, files: attr.Files, session: true,
		target: target, spaces: spaces, fresh: fresh}
	if attr.Sys.UseCgroupFD {
		l.group = cfg.Group
	}
	if cfg.UIDs != nil {
		l.spaces |= unix.CLONE_NEWUSER
		l.as = cfg.leapAs()
	}
	pid, err := 0, errNoWatch
	if by != nil {
		pid, err = by.leap(&l)
	}
	if errors.Is(err, errNoWatch) {
		err = withSlack(func() (err error) {
			pid, err = l.start()
			return err
		})
	}
	if err == nil {
		p.proc, err = findProcess(pid)
	}
	if err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	return p.noteStart()
}
