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

// tellReady tells the process that waits in MountInBackground, if there is one.
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
	_, err = pipe.Write([]byte{1})
	return errors.Join(err, pipe.Close())
}

// MountInBackground runs the command args again with -f as a process of its own,
// and returns when its view answers. What goes wrong before that it says itself,
// on stderr.
func MountInBackground(mountpoint string, args []string) error {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	defer func() { _ = ready.Close() }() // only read
	child, err := runner.StartSelf(runner.Self{
		Args:   append([]string{"varve"}, append(args[:len(args):len(args)], "-f")...),
		Env:    append(os.Environ(), readyEnv+"=3"),
		Stderr: os.Stderr, Files: []*os.File{theirs}, Setsid: true,
	})
	_ = theirs.Close() // the child has it
	if err != nil {
		return fmt.Errorf("mount %q in the background: %w", mountpoint, err)
	}
	if _, err := io.ReadFull(ready, make([]byte, 1)); err == nil {
		return child.Release()
	}
	code, err := child.Wait()
	if err == nil {
		err = fmt.Errorf("mount %q failed (exit code %d)", mountpoint, code)
	}
	return err
}
