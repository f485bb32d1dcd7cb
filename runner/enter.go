package runner

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// execName is argv[0] of the exec stage.
const execName = "varve-exec"

// Exec runs cfg.Args as one more process of the container of p, and returns when the
// program has been executed. Of cfg, Root, Hostname, Mounts and Tmpfs are not used:
// they are the container's, whose Network has to be said again. A working directory that is missing is not made.
//
// The program ends with the container, if not before. The caller has to call Wait, and
// to close Console if there is one. Errors are as those of [Start]; a container that
// has ended is os.ErrProcessDone.
//
// The exec stage is born in all namespaces of the container: nobody in there, not even who
// may look into every process (CAP_SYS_PTRACE), finds one whose root is still the host's.
// No path is walked through the container's root here, where the caller serves it.
func (p *Process) Exec(cfg Config) (*Process, error) {
	cfg.Root = "/" // of the container, when it is looked at
	cfg.Mounts, cfg.Tmpfs = nil, nil
	if err := cfg.check(); err != nil {
		return nil, err
	}
	target, err := p.pidfd()
	if err != nil {
		return nil, err
	}
	defer func() { _ = target.Close() }() // a pidfd
	w, err := openPassage(&cfg, target)
	if err != nil {
		return nil, err
	}
	defer w.close()
	child, err := p.enter(&cfg, w)
	if err != nil {
		return nil, err
	}
	if child.console, err = w.awaitExec(child.Pid(), cfg.Pretence); err != nil {
		return nil, child.abandon(err)
	}
	return child, nil
}

// pidfd returns a descriptor of the process, while it is that one.
func (p *Process) pidfd() (*os.File, error) {
	fd, err := unix.PidfdOpen(p.Pid(), 0)
	if err != nil {
		return nil, fmt.Errorf("enter the container: %w", errors.Join(os.ErrProcessDone, err))
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if start, err := ProcessStartTime(p.Pid()); err != nil || start != p.startTime {
		return nil, errors.Join(fmt.Errorf("enter the container: %w", os.ErrProcessDone), f.Close())
	}
	return f, nil
}

// enter starts the exec stage.
func (p *Process) enter(cfg *Config, w *passage) (*Process, error) {
	files := append([]*os.File{cfg.Stdin, cfg.Stdout, cfg.Stderr}, w.files()...)
	if cfg.Terminal {
		files[0], files[1], files[2] = nil, nil, nil
	}
	if cfg.UIDs != nil {
		if err := giveStreams(cfg); err != nil {
			return nil, err
		}
	}
	attr := &os.ProcAttr{Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
	if cfg.Group != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(cfg.Group.Fd())
	}
	child := &Process{done: make(chan struct{}), grouped: cfg.Group != nil}
	err := child.leap(execName, cfg, attr, w, w.target, cfg.own(), 0, p.watch.Load())
	if errors.Is(err, unix.ESRCH) {
		err = errors.New("the container has ended")
	}
	if err != nil {
		return nil, err
	}
	go child.await()
	return child, nil
}

// await waits for a process that nobody has to watch over.
func (p *Process) await() {
	defer close(p.done)
	defer p.proc.release()
	p.code, p.err = p.proc.wait()
}

// execStage is all that happens in the container before the program of Exec runs. It
// does not return.
func execStage() {
	control := &link{os.NewFile(controlFD, "varve-control")}
	err := joinProgram(control)
	if err = control.fail(err); err != nil {
		fmt.Fprintln(os.Stderr, "varve: exec stage:", err)
	}
	os.Exit(125)
}

// joinProgram returns only with an error. Its steps are those of becomeProgram. Nothing
// outside can be reached from the first on.
func joinProgram(control *link) error {
	o, err := readOrder()
	if err != nil {
		return err
	}
	if err = errors.Join(enterGroups(o), scoreOOM(o.OOMScoreAdj), hide()); err != nil {
		return err
	}
	unix.Umask(0)
	root, err := at.OpenRoot("/")
	if err != nil {
		return fmt.Errorf("open the container's root: %w", err)
	}
	if err = joinStreams(root, o, control); err != nil {
		return err
	}
	if err = goToCwd(root, o.Cwd); err != nil {
		return err
	}
	if err = errors.Join(raiseRlimits(o.Rlimits), useCPUs(o.CPUs)); err != nil {
		return err
	}
	if err = dropPrivileges(root, o); err != nil {
		return err
	}
	program, err := lookUp(o.Args[0], o.Env)
	if err != nil {
		return err
	}
	return execute(control, program, o, false)
}

// hide keeps the processes of the container from looking into this one, which holds more
// than they.
func hide() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err)
	}
	return nil
}

// own are the namespaces that the container does not share with the caller, but that of
// users. Those of the host may be nobody's to enter, and are ours already.
func (c *Config) own() int {
	all := unix.CLONE_NEWNS
	for flag, own := range map[int]bool{unix.CLONE_NEWPID: !c.HostPID, unix.CLONE_NEWUTS: !c.HostUTS, unix.CLONE_NEWIPC: !c.HostIPC,
		unix.CLONE_NEWCGROUP: !c.HostCgroups, unix.CLONE_NEWNET: c.Network != HostNetwork} {
		if own {
			all |= flag
		}
	}
	return all
}

// joinStreams makes descriptors 0 to 2 of what the caller left out.
func joinStreams(root int, o *order, control *link) error {
	dev, err := at.InRoot(root, "/dev", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dev) }() // only read
	if !o.Terminal {
		return openNull(dev, o.Null)
	}
	return joinTerminal(dev, &o.Config, control)
}

// joinTerminal makes one more terminal of the container's devpts, if it is one: /dev
// is the container's to change.
func joinTerminal(dev int, cfg *Config, control *link) error {
	pts, err := at.OpenDir(dev, "pts")
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer func() { _ = unix.Close(pts) }() // only read
	var st unix.Statfs_t
	if err = unix.Fstatfs(pts, &st); err == nil && st.Type != unix.DEVPTS_SUPER_MAGIC {
		err = errors.New("/dev/pts of the container is not the kernel's")
	}
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	master, slave, _, err := newTerminal(pts, cfg)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer func() { _ = unix.Close(master) }() // the parent has it then
	if err = takeTerminal(slave); err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	return control.send(msgConsole, "", master)
}
