package runner

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// openTerminal makes a terminal in the container's own devpts, sends its master
// side to the parent, and makes the other side descriptors 0 to 2, the
// controlling terminal of this session, and /dev/console.
func openTerminal(dev int, cfg *Config, control *link) error {
	pts, err := at.OpenDir(dev, "pts")
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer func() { _ = unix.Close(pts) }() // only read
	master, slave, number, err := newTerminal(pts, cfg)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer func() { _ = unix.Close(master) }() // the parent has it then
	if err = takeTerminal(slave); err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	if err = mountConsole(dev, pts, strconv.Itoa(number)); err != nil {
		return fmt.Errorf("/dev/console: %w", err)
	}
	return control.send(msgConsole, "", master)
}

// newTerminal makes a terminal of the devpts behind pts, of the size that is asked for.
func newTerminal(pts int, cfg *Config) (master, slave, number int, err error) {
	if master, err = at.Open(pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0); err != nil {
		return -1, -1, -1, err
	}
	if slave, number, err = openPeer(master); err == nil {
		err = unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &unix.Winsize{Row: cfg.Rows, Col: cfg.Columns})
	}
	if err != nil {
		_ = unix.Close(master) // nobody has written to it
	}
	return master, slave, number, err
}

// takeTerminal makes slave descriptors 0 to 2 and the controlling terminal of the
// session, whose leader this process is: Start has seen to that.
func takeTerminal(slave int) error {
	for fd := range 3 {
		if err := unix.Dup3(slave, fd, 0); err != nil {
			return fmt.Errorf("dup3: %w", err)
		}
	}
	if err := unix.Close(slave); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("TIOCSCTTY: %w", err)
	}
	return nil
}

// openPeer opens the other side of a terminal by its master, not by a path. Its
// descriptor is above 2, as those are open.
func openPeer(master int) (slave, number int, err error) {
	if err = unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, -1, fmt.Errorf("TIOCSPTLCK: %w", err)
	}
	if number, err = unix.IoctlGetInt(master, unix.TIOCGPTN); err != nil {
		return -1, -1, fmt.Errorf("TIOCGPTN: %w", err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER,
		unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, -1, fmt.Errorf("TIOCGPTPEER: %w", errno)
	}
	return int(fd), number, nil
}

// mountConsole shows the terminal as /dev/console, on a file that is made here
// in our own file system (CVE-2025-52565).
func mountConsole(dev, pts int, name string) error {
	file, err := at.Open(dev, "console", unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(file) }() // empty
	mount, err := cloneMount(pts, name, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(mount) }() // attached below, or dropped
	return attach(mount, file)
}

// openNull opens the container's own /dev/null as those of descriptors 0 to 2
// that the caller left out. (Go's runtime has opened the host's in their place.)
func openNull(dev int, which [3]bool) error {
	for fd, wanted := range which {
		if !wanted {
			continue
		}
		null, err := at.Open(dev, "null", unix.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
		if err = unix.Dup3(null, fd, 0); err != nil {
			return fmt.Errorf("descriptor %d: dup3: %w", fd, err)
		}
		if err = unix.Close(null); err != nil {
			return fmt.Errorf("descriptor %d: close: %w", fd, err)
		}
	}
	return nil
}
