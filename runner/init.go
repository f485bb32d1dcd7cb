package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// initStage is all that happens in the new namespaces before the program runs.
// It does not return.
func initStage() {
	control := &link{os.NewFile(controlFD, "varve-control")}
	err := becomeProgram(control)
	if err = control.fail(err); err != nil {
		fmt.Fprintln(os.Stderr, "varve: init stage:", err)
	}
	os.Exit(125)
}

// becomeProgram returns only with an error. The order of its steps matters:
//
//  1. what comes from outside is opened while outside can be seen;
//  2. from enterRoot on, no path leads out of the view;
//  3. privileges are dropped when the mounts are made;
//  4. the program is looked up with its own privileges, in its own root;
//  5. PR_SET_PDEATHSIG comes last, as changes of the credentials clear it.
func becomeProgram(control *link) error {
	o, err := readOrder()
	if err != nil {
		return err
	}
	if err = errors.Join(joinGroups(o), scoreOOM(o.OOMScoreAdj), hide()); err != nil {
		return err
	}
	if o.sharesPIDs() {
		if err = control.awaitGathered(); err != nil {
			return err
		}
	}
	if err = setUpHost(&o.Config); err != nil {
		return err
	}
	outside, err := openOutside(o) // 1
	if err != nil {
		return err
	}
	if err = setSysctls(outside.proc, o.Sysctls); err != nil {
		return err
	}
	root, err := enterRoot(outside.root) // 2
	if err != nil {
		return err
	}
	if o.closesDevices() {
		if err = setMountFlags(root, unix.MOUNT_ATTR_NODEV, 0); err != nil {
			return fmt.Errorf("close the root to devices: %w", err)
		}
	}
	if err = buildRoot(root, outside, o, control); err != nil {
		return err
	}
	if err = enterCwd(root, o.Cwd); err != nil {
		return err
	}
	if o.ReadOnly { // last, as mount points and the directory above may have been made
		if err = setMountFlags(root, unix.MOUNT_ATTR_RDONLY, 0); err != nil {
			return fmt.Errorf("make the root read-only: %w", err)
		}
	}
	if err = errors.Join(raiseRlimits(o.Rlimits), useCPUs(o.CPUs)); err != nil {
		return err
	}
	if err = dropPrivileges(root, o); err != nil { // 3
		return err
	}
	program, err := lookUp(o.Args[0], o.Env) // 4
	if err != nil {
		return err
	}
	return execute(control, program, o, true) // 5
}

func readOrder() (*order, error) {
	f := os.NewFile(configFD, "varve-config")
	defer func() { _ = f.Close() }() // only read
	if _, err := f.Seek(0, 0); err != nil {
		return nil, fmt.Errorf("read the container's configuration: %w", err)
	}
	var o order
	if err := json.NewDecoder(f).Decode(&o); err != nil {
		return nil, fmt.Errorf("read the container's configuration: %w", err)
	}
	return &o, nil
}

// joinGroups goes into control groups of version 1, and makes the namespace in
// which the groups of this process are the roots.
func joinGroups(o *order) error {
	if err := enterGroups(o); err != nil || o.HostCgroups {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a namespace of control groups: %w", explainClone(err))
	}
	return nil
}

func enterGroups(o *order) error {
	for i, dir := range o.Join {
		fd, err := o.openProcs(i, dir)
		if err == nil {
			_, err = unix.Write(fd, []byte("0")) // 0 is who writes
			_ = unix.Close(fd)                   // the write has told
		}
		if err != nil {
			return fmt.Errorf("join a control group: %s: %w", dir, err)
		}
	}
	return nil
}

// setUpHost prepares what is not files: names, network, and the file mode mask,
// which would otherwise cut the modes of all that is made from here on.
func setUpHost(cfg *Config) error {
	unix.Umask(0)
	if cfg.Hostname != "" && !cfg.HostUTS {
		if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
			return fmt.Errorf("set the hostname %q: %w", cfg.Hostname, err)
		}
	}
	if cfg.Domainname != "" && !cfg.HostUTS {
		if err := unix.Setdomainname([]byte(cfg.Domainname)); err != nil {
			return fmt.Errorf("set the domainname %q: %w", cfg.Domainname, err)
		}
	}
	if cfg.Network == NoNetwork {
		return loopbackUp()
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring the loopback device up: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was sent
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring the loopback device up: %w", err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring the loopback device up: %w", err)
	}
	return nil
}

// buildRoot attaches everything that the program finds in its root beside the
// image. Masks come before volumes, so that a volume may be put on one.
func buildRoot(root int, out *outside, o *order, control *link) error {
	dev, err := mountSystem(root, out, &o.Config)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dev) }() // the mount is attached
	if !o.Privileged && !o.Unmasked {
		if err = maskKernel(root, dev); err != nil {
			return err
		}
	}
	if err = attachGroups(root, out.groups, &o.Config); err != nil {
		return fmt.Errorf("show the control groups: %w", err)
	}
	if err = mountVolumes(root, out, &o.Config); err != nil {
		return err
	}
	if o.Terminal {
		return openTerminal(dev, &o.Config, control)
	}
	return openNull(dev, o.Null)
}

// execute is the last step: every descriptor but 0 to 2 closes with execve. A bound
// program dies with the thread that started it.
func execute(control *link, program string, o *order, bound bool) error {
	cfg := &o.Config
	var tiny *os.File
	if err := resetSignals(); err != nil {
		return err
	}
	unix.Umask(0o022)
	if err := setSlack(kernelSlack); err != nil {
		return err
	}
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", tooOld(err))
	}
	if bound && cfg.Init {
		var err error
		if tiny, err = openTiny(program); err != nil {
			return err
		}
		if _, err = unix.FcntlInt(controlFD, unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("fcntl: %w", err)
		}
		if cfg.sharesPIDs() { // process 1 has orphans anyway
			if err = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
				return fmt.Errorf("prctl PR_SET_CHILD_SUBREAPER: %w", err)
			}
		}
	}
	if bound {
		if err := bindToParent(control); err != nil {
			return err
		}
	}
	makeRoom(cfg.Rlimits)
	if err := errors.Join(setRlimits(cfg.Rlimits), control.send(msgReady, program, -1)); err != nil {
		return err
	}
	if err := confine(o, control); err != nil {
		return err
	}
	if tiny != nil {
		return executeTiny(tiny, cfg)
	}
	return execError(program, unix.Exec(program, cfg.Args, cfg.Env))
}

// bindToParent has the kernel kill this process with its parent.
func bindToParent(control *link) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_PDEATHSIG: %w", err)
	}
	// The parent may have died before that; then nobody kills us any more.
	gone, err := control.parentIsGone()
	if err != nil {
		return err
	}
	if gone {
		return errors.New("the supervisor has died")
	}
	return nil
}
