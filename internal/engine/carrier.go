package engine

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/container"
)

// A carrier copies what comes from one file to another, until the end of the one, or
// until the other takes no more. Between pipes and files the bytes stay in the kernel.
type carrier struct {
	to, from *os.File
	in, out  int // their numbers
	done     chan struct{}

	mu  sync.Mutex // held while bytes are on their way
	buf []byte     // for files that can not be spliced
}

func newCarrier(to, from *os.File) *carrier {
	c := &carrier{to: to, from: from, in: -1, out: -1, done: make(chan struct{})}
	if in, err := container.FileNumber(from); err == nil {
		if out, err := container.FileNumber(to); err == nil {
			c.in, c.out = in, out
		}
	}
	return c
}

// carry has a carrier print to f what comes from a pipe, which it closes at the end:
// who writes to it then sees that nobody reads.
func (s *Session) carry(f, pipe *os.File) {
	c := newCarrier(f, pipe)
	s.outputs = append(s.outputs, c)
	go func() {
		c.run()
		if pipe != s.Input() {
			_ = pipe.Close() // only read
		}
	}()
}

// run carries all. It may be called once. The files stay open meanwhile.
func (c *carrier) run() {
	defer close(c.done)
	if c.in < 0 {
		return // one is closed already
	}
	for c.wait() && c.step() {
	}
}

// wait waits until there is something to carry, or the end.
func (c *carrier) wait() bool {
	fds := []unix.PollFd{{Fd: int32(c.in), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		if err != unix.EINTR {
			return err == nil
		}
	}
}

// step carries one piece; false is the end.
func (c *carrier) step() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buf == nil {
		n, err := unix.Splice(c.in, nil, c.out, nil, container.OutflowSize, unix.SPLICE_F_MOVE)
		switch err {
		case nil:
			return n > 0
		case unix.EINTR:
			return true
		case unix.EAGAIN: // one of them does not block
			return c.waitRoom()
		case unix.EINVAL, unix.ENOSYS, unix.EBADF: // not these files
			c.buf = make([]byte, 64<<10)
		default:
			return false
		}
	}
	n, err := unix.Read(c.in, c.buf)
	switch {
	case err == unix.EINTR || err == unix.EAGAIN:
		return true
	case err != nil || n == 0: // EIO: nobody has the terminal open any more
		return false
	}
	return c.writeAll(c.buf[:n])
}

func (c *carrier) writeAll(text []byte) bool {
	for len(text) > 0 {
		n, err := unix.Write(c.out, text)
		switch {
		case err == unix.EAGAIN:
			if !c.waitRoom() {
				return false
			}
		case err != nil && err != unix.EINTR:
			return false
		}
		text = text[max(n, 0):]
	}
	return true
}

func (c *carrier) waitRoom() bool {
	fds := []unix.PollFd{{Fd: int32(c.out), Events: unix.POLLOUT}}
	_, err := unix.Poll(fds, -1)
	return err == nil || err == unix.EINTR
}

// settle waits until all that was said is carried. Who said it has ended, but what it
// left behind may hold the pipe; nobody waits for that.
func (c *carrier) settle() {
	for {
		select {
		case <-c.done:
			return
		case <-time.After(container.LastWords):
		}
		c.mu.Lock()
		idle := c.in >= 0 && !container.Polled(c.in)
		c.mu.Unlock()
		if idle {
			return
		}
	}
}
