package container

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An outflow is a stream that a program writes, on its way to the log and to all who
// are attached. A supervisor writes to pipes only (who is attached from elsewhere
// brings one), so whoever does not read can be left at any moment.
type outflow struct {
	stream int
	log    *LogFile // nil: none is kept

	mu   sync.Mutex // guards taps
	taps []*tap
}

// A tap is where an outflow goes to one who is attached.
type tap struct {
	stop int // an eventfd: it can be read when the tap is to be left

	mu     sync.Mutex // held while the pipe is used
	pipe   *os.File
	fd     int
	closed bool

	// broken is called when nobody reads the pipe any more. It tells whether the
	// program is to have no reader either.
	broken func() bool
}

// errLeft: the tap was left while it was full.
var errLeft = errors.New("left")

// newTap takes over a pipe.
func newTap(pipe *os.File, broken func() bool) (*tap, error) {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	fd, err := FileNumber(pipe)
	if err != nil {
		return nil, errors.Join(err, unix.Close(stop))
	}
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, OutflowSize) // faster, where it may be
	return &tap{pipe: pipe, fd: fd, stop: stop, broken: broken}, nil
}

// close ends a write that waits, and closes the pipe. It is called once.
func (t *tap) close() {
	_, _ = unix.Write(t.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // an eventfd takes it
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	CloseAll([]*os.File{t.pipe})
	_ = unix.Close(t.stop) // an eventfd
}

// use calls fn with the pipe, which stays open meanwhile.
func (t *tap) use(fn func(fd int) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errLeft
	}
	return fn(t.fd)
}

// waitRoom waits until the pipe behind fd takes at least PIPE_BUF bytes.
func (t *tap) waitRoom(fd int) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}, {Fd: int32(t.stop), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case fds[1].Revents != 0:
			return errLeft
		case fds[0].Revents&unix.POLLERR != 0:
			return unix.EPIPE
		}
		return nil
	}
}

// atomicWrite is what a pipe with room takes without blocking, whatever its flags,
// which are not ours to change: pipe(7), PIPE_BUF.
const atomicWrite = 4096

func (t *tap) write(text []byte) error {
	return t.use(func(fd int) error {
		for len(text) > 0 {
			if err := t.waitRoom(fd); err != nil {
				return err
			}
			n, err := unix.Write(fd, text[:min(len(text), atomicWrite)])
			if err != nil && err != unix.EINTR && err != unix.EAGAIN {
				return err
			}
			text = text[max(n, 0):]
		}
		return nil
	})
}

// add lets t have what comes from now on.
func (o *outflow) add(t *tap) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.taps = append(o.taps, t)
}

// remove takes t, if it is there, and closes it.
func (o *outflow) remove(t *tap) {
	o.mu.Lock()
	i := slices.Index(o.taps, t)
	if i >= 0 {
		o.taps = slices.Delete(slices.Clone(o.taps), i, i+1)
	}
	o.mu.Unlock()
	if i >= 0 {
		t.close()
	}
}

// current are the taps of now. The slice is not changed any more.
func (o *outflow) current() []*tap {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.taps
}

// CloseAll removes every tap: whoever reads there sees the end.
func (o *outflow) closeAll() {
	for _, t := range o.current() {
		o.remove(t)
	}
}

// OutflowSize is the buffer of an outflow, and the size of the program's pipe: what
// the kernel lets everybody have. Measured: docs/design.md.
const OutflowSize = 1 << 20

// pump carries what comes from source until its end, and closes source. Where there
// is one reader and no log the bytes go from pipe to pipe inside the kernel.
func (o *outflow) pump(source *os.File, terminal bool, alive func() bool) {
	defer func() { _ = source.Close() }() // only read
	defer func() { o.log.Finish(o.stream, time.Now()) }()
	var buf []byte
	for {
		taps := o.current()
		var err error
		if o.log == nil && len(taps) == 1 && !terminal {
			err = o.move(source, taps[0])
		} else {
			if buf == nil {
				buf = make([]byte, 64<<10)
			}
			err = o.copy(source, buf)
		}
		switch {
		case err == nil:
		case errors.Is(err, unix.EIO) && terminal && alive():
			// Nobody has the terminal open at this moment; somebody may yet.
			time.Sleep(50 * time.Millisecond)
		case errors.Is(err, os.ErrDeadlineExceeded):
			o.drain(source)
			return
		default: // the end, or nobody is to read on
			return
		}
	}
}

// drain carries what is in the pipe of a program that has ended. Somebody else may
// hold the pipe, so its end is not waited for.
func (o *outflow) drain(source *os.File) {
	fd, err := FileNumber(source)
	if err != nil {
		return
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
		case err != nil || n == 0 || o.give(buf[:n]) != nil:
			return
		}
	}
}

// errNoReader: the program is to see that nobody reads.
var errNoReader = errors.New("nobody reads")

// copy carries one piece to the log and to all taps.
func (o *outflow) copy(source *os.File, buf []byte) error {
	n, err := source.Read(buf)
	if n > 0 {
		err = errors.Join(err, o.give(buf[:n]))
	}
	return err
}

func (o *outflow) give(text []byte) error {
	o.log.Write(o.stream, text, time.Now())
	for _, t := range o.current() {
		if err := o.settle(t, t.write(text)); err != nil {
			return err
		}
	}
	return nil
}

// settle removes a tap that could not be written to.
func (o *outflow) settle(t *tap, err error) error {
	if err == nil {
		return nil
	}
	end := !errors.Is(err, errLeft) && t.broken()
	o.remove(t)
	if end {
		return errNoReader
	}
	return nil
}

// move waits for bytes and moves what is there to the tap.
func (o *outflow) move(source *os.File, t *tap) error {
	conn, err := source.SyscallConn()
	if err != nil {
		return err
	}
	n, spliced := int64(0), error(nil)
	err = conn.Read(func(fd uintptr) bool {
		for {
			if taps := o.current(); len(taps) != 1 || taps[0] != t {
				n, spliced = 1, nil // somebody came or went
				return true
			}
			spliced = t.use(func(to int) (err error) {
				n, err = unix.Splice(int(fd), nil, to, nil, OutflowSize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
				return err
			})
			if spliced == unix.EINTR {
				continue
			}
			// EAGAIN is of the source, which is waited for here, or of the tap.
			return spliced != unix.EAGAIN || Polled(int(fd))
		}
	})
	switch {
	case err != nil:
		return err
	case spliced == unix.EAGAIN:
		return o.settle(t, t.use(t.waitRoom))
	case spliced != nil:
		return o.settle(t, spliced)
	case n == 0:
		return io.EOF
	}
	return nil
}

// Polled tells whether there is something to read at this moment.
func Polled(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1 && fds[0].Revents&unix.POLLIN != 0
}
