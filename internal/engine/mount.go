package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/runner"
	"github.com/varvefs/varve/unionfs"
)

// MountOptions are what `varve mount` asks for. Lowers is required.
type MountOptions struct {
	Lowers      []string // top first
	Upper, Work string   // both or neither
	ReadOnly    bool     // in spite of an upper, which is then the topmost lower
}

// readyEnv is the number of the descriptor on which a mount in the background
// tells that it answers.
const readyEnv = "_VARVE_READY"

// Mount mounts a union of directories and serves it until it is unmounted, or
// this process gets SIGINT, SIGTERM or SIGHUP.
func Mount(mountpoint string, opt MountOptions) error {
	if opt.ReadOnly && opt.Upper != "" {
		opt.Lowers = append([]string{opt.Upper}, opt.Lowers...)
		opt.Upper, opt.Work = "", ""
	}
	root := os.Geteuid() == 0
	view := unionfs.Options{Upper: opt.Upper, Work: opt.Work, AllowOther: root, Suid: root, Dev: root}
	for _, dir := range opt.Lowers {
		view.Lowers = append(view.Lowers, unionfs.Lower{Path: dir})
	}
	server, err := unionfs.Mount(mountpoint, view)
	if err != nil {
		return err
	}
	if err := tellReady(); err != nil {
		return errors.Join(err, server.Unmount())
	}
	return serve(server)
}

// serve waits for the end of a view, and brings it about when a signal asks.
func serve(server *unionfs.Server) error {
	debug.SetGCPercent(100) // main has set it for short verbs
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	done := make(chan struct{})
	go func() { server.Wait(); close(done) }()
	for {
		select {
		case <-done:
			return nil
		case <-signals:
			if err := server.Unmount(); err != nil {
				fmt.Fprintln(os.Stderr, "varve:", err) // it stays, and is served on
			}
		}
	}
}

// tellReady tells the process that waits in MountInBackground, if there is one,
// and lets go of its stderr: somebody may wait for the end of that.
func tellReady() error {
	number := os.Getenv(readyEnv)
	if number == "" {
		return nil
	}
	fd, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("%s: %w", readyEnv, err)
	}
	pipe := os.NewFile(uintptr(fd), "ready")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return errors.Join(err, pipe.Close())
	}
	_, err = pipe.Write([]byte{1})
	return errors.Join(err, pipe.Close(), unix.Dup3(int(null.Fd()), unix.Stderr, 0), null.Close())
}

// MountInBackground runs the command args again with -f as a process of its own,
// and returns when its view answers. What goes wrong before that is said on
// stderr, in its own words.
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
		Args:   append([]string{"varve"}, append(args[:len(args):len(args)], "-f")...),
		Env:    append(os.Environ(), readyEnv+"=3"),
		Stderr: wordsEnd, Files: []*os.File{readyEnd}, Setsid: true,
	})
	err = errors.Join(err, readyEnd.Close(), wordsEnd.Close())
	if err != nil {
		return fmt.Errorf("mount %q in the background: %w", mountpoint, err)
	}
	return awaitReady(child, ready, words)
}

// ErrTold: the process that was started has said on stderr what went wrong.
var ErrTold = errors.New("it failed")

// awaitReady passes on what the child says until its view answers, or it ends.
func awaitReady(child *runner.Child, ready, words *os.File) error {
	if _, err := io.Copy(os.Stderr, words); err != nil {
		return fmt.Errorf("hear from the mount: %w", err)
	}
	if _, err := io.ReadFull(ready, make([]byte, 1)); err == nil {
		return child.Release()
	}
	if _, err := child.Wait(); err != nil {
		return err
	}
	return ErrTold
}
