package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/runner"
)

// CopyOptions say how files are copied. The zero value works.
type CopyOptions struct {
	// Owners keeps them, on this machine as far as the caller may, and that one can not be
	// had in the container is an error. Without it the files in a container have their
	// numbers all the same, where there are such ids, as dockerd does it, and what comes out
	// is the caller's.
	Owners bool
	// Follow copies what the source, a symbolic link, leads to.
	Follow bool
}

// Copied tells what came of it.
type Copied struct {
	Bytes   int64 // of the tar that was made of the files
	Omitted int   // devices that were left out, or that could not be made
}

// ArchiveFrom writes the file at a path of a container, and all below it, to w as a tar.
// Whether the container runs is of no concern.
func (e *Engine) ArchiveFrom(name, unsafePath string, w io.Writer, opt CopyOptions) (Copied, error) {
	c, err := e.sendCourier(name, container.CopyOrder{Read: true, Path: unsafePath, Follow: opt.Follow, Named: true})
	if err != nil {
		return Copied{}, err
	}
	defer c.close()
	if _, err = c.source(); err != nil {
		return Copied{}, err
	}
	n, err := io.Copy(w, c.stream)
	c.hangUp(err)
	_, endErr := c.end()
	return Copied{Bytes: n}, errors.Join(err, endErr)
}

// CopyFrom copies a file or directory out of a container to a path of this machine, by
// docker's rules.
func (e *Engine) CopyFrom(name, unsafePath, to string, opt CopyOptions) (Copied, error) {
	if err := checkLocalTarget(to); err != nil {
		return Copied{}, err
	}
	c, err := e.sendCourier(name, container.CopyOrder{Read: true, Path: unsafePath, Follow: opt.Follow})
	if err != nil {
		return Copied{}, err
	}
	defer c.close()
	source, err := c.source()
	if err != nil {
		return Copied{}, err
	}
	dir, under, err := localTarget(to, source)
	if err != nil {
		return Copied{}, err
	}
	defer func() { _ = unix.Close(dir) }() // only read
	x := archive.ExtractOptions{Under: under, LeaveDirs: true}
	if opt.Owners && os.Geteuid() == 0 {
		x.Owner, x.Trusted = archive.Kept, true
	}
	count := &tally{r: c.stream}
	out, err := archive.Extract(count, dir, x)
	if err == nil {
		_, err = io.Copy(io.Discard, count) // what comes after the end mark
	}
	c.hangUp(err)
	_, endErr := c.end()
	return Copied{count.n, out.Omitted}, errors.Join(err, endErr)
}

// CopyTo copies a file or directory of this machine into a container, by docker's rules.
func (e *Engine) CopyTo(from, name, unsafePath string, opt CopyOptions) (Copied, error) {
	dir, base, source, err := localSource(from, opt.Follow)
	if err != nil {
		return Copied{}, err
	}
	defer func() { _ = unix.Close(dir) }() // only read
	order := container.CopyOrder{Path: unsafePath, Owners: opt.Owners, Source: source}
	return e.copyInto(name, order, func(w io.Writer) error {
		return archive.WriteTree(w, archive.Files(dir, base, ""))
	})
}

// ArchiveTo makes files of a tar, which may be compressed, in a directory of a container.
// Their owners are those that it says.
func (e *Engine) ArchiveTo(r io.Reader, name, unsafePath string) (Copied, error) {
	order := container.CopyOrder{Path: unsafePath, Source: container.CopySource{Archive: true}}
	return e.copyInto(name, order, func(w io.Writer) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// copyInto has a courier make files of what write writes.
func (e *Engine) copyInto(name string, order container.CopyOrder, write func(io.Writer) error) (Copied, error) {
	c, err := e.sendCourier(name, order)
	if err != nil {
		return Copied{}, err
	}
	defer c.close()
	count := &tally{w: c.stream}
	wrote := make(chan error, 1)
	go func() { // its reader may end first, while stdin has no end
		wrote <- write(count)
		_ = c.stream.Close() // a pipe
	}()
	told, err := c.end()
	if err == nil {
		return Copied{count.n, told.Omitted}, <-wrote
	}
	select {
	case cause := <-wrote: // why the courier has found no end
		if cause != nil && !errors.Is(cause, unix.EPIPE) {
			err = cause
		}
	default:
	}
	return Copied{}, err
}

// A tally counts what goes through it.
type tally struct {
	r io.Reader
	w io.Writer
	n int64
}

func (t *tally) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.n += int64(n)
	return n, err
}

func (t *tally) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	t.n += int64(n)
	return n, err
}

// A courierCall is a verb's end of the connection to a courier.
type courierCall struct {
	container, path string // as they were given
	absent          string // what is not there, if something is not
	wire            *container.Wire
	stream          *os.File
	broken          bool            // this end gave up
	guest           *container.Wire // to the supervisor that has sent it
	lender          *runner.Child   // or to the process that has, of a container that does not run
}

// sendCourier has a courier begin with an order in a container that is found by any of its
// names, and that runs or not.
func (e *Engine) sendCourier(name string, order container.CopyOrder) (c *courierCall, err error) {
	record, _, err := e.findState(name)
	if err != nil {
		return nil, err
	}
	c = &courierCall{container: name, path: order.Path, absent: path.Clean("/" + order.Path)}
	switch {
	case order.Read && strings.HasSuffix(order.Path, "/") && c.absent != "/":
		c.absent += "/"
	case !order.Read && !order.Source.Archive && !namesContents(order.Path): // what is not there is the directory to copy to
		c.absent = path.Dir(c.absent)
	}
	ours, theirs, err := container.WirePair()
	if err != nil {
		return nil, err
	}
	c.wire = ours
	r, w, err := os.Pipe()
	if err != nil {
		container.CloseAll([]*os.File{theirs})
		ours.Close()
		return nil, fmt.Errorf("pipe: %w", err)
	}
	near, far := r, w
	if !order.Read {
		near, far = w, r
	}
	c.stream = near
	action := "extract-to-dir"
	if order.Read {
		action = "archive-path"
	}
	e.NoteContainer(record.ID, action, map[string]string{"path": order.Path})
	err = c.wire.Send(container.Request{Do: container.DoCopy, Copy: &order})
	if err == nil {
		err = e.findCourier(c, record.ID, theirs, far)
	}
	container.CloseAll([]*os.File{theirs, far})
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// findCourier gives the other ends of the connection to the supervisor of the container,
// or, if there is none, to a process that mounts the view. The container may start or end
// meanwhile.
func (e *Engine) findCourier(c *courierCall, id string, files ...*os.File) error {
	for {
		lock, err := e.lockContainer(id)
		if err != nil {
			return err
		}
		state, err := e.ReadState(id)
		if err != nil {
			lock.release()
			return err
		}
		if !state.Supervisor.Alive() {
			defer lock.release() // the lender has it, too
			if err := end(state); err != nil {
				return err
			}
			return e.startLender(c, id, lock, files)
		}
		lock.release()
		c.guest, err = e.call(id, container.Request{Do: container.DoCopy}, files...)
		if !errors.Is(err, container.ErrNotRunning) {
			return err
		}
	}
}

func (e *Engine) startLender(c *courierCall, id string, lock *containerLock, files []*os.File) error {
	plan, err := planUserns(e.Root())
	if err != nil {
		return err
	}
	held, err := lock.file()
	if err != nil {
		return err
	}
	defer container.CloseAll([]*os.File{held})
	c.lender, err = runner.StartSelf(runner.Self{
		Args: []string{"varve", "lend", id}, Env: container.Environ(e.Root()), Files: append(files, held), Stderr: os.Stderr,
		Userns: plan, PrivateMounts: true,
	})
	return err
}

// source hears what is copied out of a container.
func (c *courierCall) source() (container.CopySource, error) {
	r, err := c.hear()
	if err != nil || r.Copy == nil {
		return container.CopySource{}, err
	}
	return r.Copy.Source, nil
}

// end hears how it went, and waits for who has sent the courier.
func (c *courierCall) end() (container.CopyReply, error) {
	r, err := c.hear()
	if err == nil && r.Event != container.EventDone {
		err = fmt.Errorf("control connection: %q before %q", r.Event, container.EventDone)
	}
	if c.broken { // the first error says why
		err = nil
	}
	if r.Copy == nil {
		r.Copy = &container.CopyReply{}
	}
	return *r.Copy, err
}

// hear waits for the next word of the courier.
func (c *courierCall) hear() (container.Reply, error) {
	r, _, err := c.wire.ReceiveReply()
	if err != nil {
		return r, errors.Join(c.lost(), errors.New("the copy was cut short: did the container start, or end?"))
	}
	if r.Event != container.EventFailed {
		return r, nil
	}
	switch {
	case r.Copy != nil && r.Copy.Absent:
		//lint:ignore ST1005 docker's words
		return r, fmt.Errorf("Could not find the file %s in container %s", c.absent, c.container)
	case r.Error == errNoDirectory.Error(), r.Error == errNoFile.Error():
		return r, fmt.Errorf("destination \"%s:%s\" %s", c.container, c.path, r.Error)
	}
	return r, sentences(r.Error)
}

// lost is what the one who should have sent the courier says.
func (c *courierCall) lost() error {
	if c.guest == nil {
		return nil
	}
	r, _, err := c.guest.ReceiveReply()
	if err != nil || r.Event != container.EventFailed {
		return nil
	}
	return sentences(r.Error)
}

// HangUp lets a courier see that nobody reads what it writes, if err is not nil.
func (c *courierCall) hangUp(err error) {
	if err != nil {
		c.broken = true
		_ = c.stream.Close() // only read
	}
}

// close ends the courier, if it has not ended, and waits for the one who mounted for it.
func (c *courierCall) close() {
	_ = c.stream.Close() // a pipe; it may be closed
	c.wire.Close()
	if c.guest != nil {
		c.guest.Close()
	}
	if c.lender != nil {
		_, _ = c.lender.Wait() // what went wrong has been said
	}
}
