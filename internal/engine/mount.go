package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/runner"
	"github.com/varvefs/varve/unionfs"
)

// readyEnv is the number of the descriptor on which a mount in the background
// tells that it answers.
const readyEnv = "_VARVE_READY"

// InBackground tells whether this process was started by [MountInBackground]: it
// is to call [Mount], and has been told on by its parent.
func InBackground() bool { return os.Getenv(readyEnv) != "" }

// Mount mounts a union of directories and serves it until it is unmounted, or
// this process gets SIGINT, SIGTERM or SIGHUP.
func Mount(mountpoint string, opt MountOptions) (err error) {
	ready, err := readyPipe()
	if err != nil {
		return err
	}
	mountpoint, err = filepath.Abs(mountpoint)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	unix.Umask(0) // the modes of new files are the callers', and come with the umask of those
	stats, err := listenStats(opt.stats)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stats.close()) }()
	server, err := opt.mount(mountpoint)
	if err != nil {
		return err
	}
	container.TuneForServing()
	go stats.serve(server, mountpoint)
	if opt.view.IO == unionfs.Auto {
		fmt.Fprintf(os.Stderr, "varve: io=%v\n", server.Mode())
	}
	if ready != nil {
		if err := tellReady(ready); err != nil {
			return errors.Join(err, server.Unmount())
		}
	}
	return serve(server, signals)
}

// serve waits for the end of a view, and brings it about when a signal asks. A view
// in use is taken away from who comes later, and served on to who is in it; a
// second signal ends that.
func serve(server *unionfs.Server, signals <-chan os.Signal) error {
	done := make(chan struct{})
	go func() { server.Wait(); close(done) }()
	detached := false
	for {
		select {
		case <-done:
			return nil
		case s := <-signals:
			if detached {
				return fmt.Errorf("ended by a second signal (%v) while the view was in use", s)
			}
			err := server.Unmount()
			if err == nil {
				continue // done
			}
			if detached = true; server.Detach() != nil {
				fmt.Fprintln(os.Stderr, "varve:", err) // it stays, and is served on
				detached = false
			}
		}
	}
}

// readyPipe is what to tell on that the view answers; nil if nobody waits for it.
func readyPipe() (*os.File, error) {
	number := os.Getenv(readyEnv)
	if number == "" {
		return nil, nil
	}
	if err := os.Unsetenv(readyEnv); err != nil {
		return nil, err
	}
	fd, err := strconv.Atoi(number)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", readyEnv, err)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "ready"), nil
}

// tellReady lets go of all that the caller may wait for, the working directory and
// the standard descriptors, and tells that the view answers.
func tellReady(ready *os.File) error {
	if err := os.Chdir("/"); err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return errors.Join(fmt.Errorf("dup3: %w", err), null.Close())
		}
	}
	_, err = ready.Write([]byte{1})
	return errors.Join(err, ready.Close(), null.Close())
}

// MountInBackground runs the command line args, with args[0], again as a process
// of its own, in which [InBackground] is true, and returns when its view answers.
// What goes wrong before that is said on stderr, in its own words.
func MountInBackground(mountpoint string, args []string) error {
	ready, readyEnd, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	defer func() { _ = ready.Close() }() // only read
	words, wordsEnd, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("pipe: %w", err), readyEnd.Close())
	}
	defer func() { _ = words.Close() }() // only read
	child, err := runner.StartSelf(runner.Self{
		Args: args, Env: append(os.Environ(), readyEnv+"=3"),
		Stderr: wordsEnd, Files: []*os.File{readyEnd}, Setsid: true,
	})
	err = errors.Join(err, readyEnd.Close(), wordsEnd.Close())
	if err != nil {
		return fmt.Errorf("mount %q in the background: %w", mountpoint, err)
	}
	err = awaitReady(child, ready, words)
	if err != nil {
		err = errors.Join(err, clearDead(mountpoint))
	}
	return err
}

// clearDead unmounts a view whose server was killed before it could say a word.
func clearDead(mountpoint string) error {
	if _, err := os.Stat(mountpoint); !errors.Is(err, unix.ENOTCONN) {
		return nil
	}
	if os.Geteuid() == 0 {
		return os.NewSyscallError("umount", unix.Unmount(mountpoint, unix.MNT_DETACH))
	}
	return exec.Command("fusermount3", "-u", "-z", mountpoint).Run()
}

// ErrTold: the process that was started has said on stderr what went wrong.
var ErrTold = errors.New("it failed")

// awaitReady passes on what the child says until its view answers, or it ends.
func awaitReady(child *runner.Child, ready, words *os.File) error {
	if _, err := io.Copy(os.Stderr, words); err != nil {
		return fmt.Errorf("hear from the mount: %w", err)
	}
	if _, err := io.ReadFull(ready, make([]byte, 1)); err == nil {
		child.Release()
		return nil
	}
	if _, err := child.Wait(); err != nil {
		return err
	}
	return ErrTold
}
