package archive

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
)

// The pipeline of a stream holds at most chunks times chunkSize bytes.
const (
	chunkSize = 256 << 10
	chunks    = 8
)

// chunk is a piece of the uncompressed archive on its way to its two readers.
type chunk struct {
	buf  []byte
	n    int
	refs atomic.Int32 // readers that are not done with it
}

// stream reads an archive ahead in one goroutine and hashes it in another, while
// its user parses it in a third: on two cores an import then takes as long as the
// slowest of the three, not as long as all of them.
type stream struct {
	sum hash.Hash // owned by the hash goroutine until hashed is closed

	free    chan *chunk
	parse   chan *chunk // closed by the reader at the end
	digest  chan *chunk // closed by the reader at the end
	stop    chan struct{}
	done    chan struct{} // the reader has ended; err is valid
	hashed  chan struct{} // the hash goroutine has ended; sum is valid
	err     error         // why the reader ended; nil for the end of the archive
	current *chunk
	rest    []byte // what is left of current
}

// newStream begins to read r. Close must be called.
func newStream(r io.Reader, maxBytes int64) *stream {
	s := &stream{
		sum:    sha256.New(),
		free:   make(chan *chunk, chunks),
		parse:  make(chan *chunk, chunks),
		digest: make(chan *chunk, chunks),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
		hashed: make(chan struct{}),
	}
	for range chunks {
		s.free <- &chunk{buf: make([]byte, chunkSize)}
	}
	go s.read(onlyEOF{r}, maxBytes)
	go s.hash()
	return s
}

// read fills chunks until the end of r, an error, the bound or Close.
func (s *stream) read(r io.Reader, left int64) {
	defer close(s.done)
	defer close(s.parse)
	defer close(s.digest)
	for {
		var c *chunk
		select {
		case c = <-s.free:
		case <-s.stop:
			return
		}
		n, err := io.ReadFull(r, c.buf)
		if left -= int64(n); left < 0 {
			s.err = fmt.Errorf("%w: the uncompressed archive is too long", ErrTooBig)
			return
		}
		c.n = n
		c.refs.Store(2)
		s.parse <- c // never blocks: it has room for all chunks
		s.digest <- c
		if err != nil {
			s.err = endOfInput(err)
			return
		}
	}
}

// endOfInput tells the end of the input from an error of it.
func endOfInput(err error) error {
	if broken := (*readError)(nil); errors.As(err, &broken) {
		return fmt.Errorf("read the archive: %w", cutShort(broken.err))
	}
	return nil
}

// readError marks an error of the input that is not its clean end. The decoders
// say io.ErrUnexpectedEOF for a cut stream, as io.ReadFull does for a short last
// chunk: only the mark tells the two apart.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

// onlyEOF passes io.EOF through and marks every other error.
type onlyEOF struct{ r io.Reader }

func (o onlyEOF) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && err != io.EOF {
		err = &readError{err}
	}
	return n, err
}

func (s *stream) hash() {
	defer close(s.hashed)
	for c := range s.digest {
		s.sum.Write(c.buf[:c.n])
		s.release(c)
	}
}

func (s *stream) release(c *chunk) {
	if c.refs.Add(-1) == 0 {
		s.free <- c // never blocks: it has room for all chunks
	}
}

// Read gives the parser its copy of the stream.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.current != nil {
			s.release(s.current)
			s.current = nil
		}
		c, ok := <-s.parse
		if !ok {
			<-s.done
			if s.err != nil {
				return 0, s.err
			}
			return 0, io.EOF
		}
		s.current, s.rest = c, c.buf[:c.n]
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Sum waits for the end of the hash of all that was read. It may be called once
// Read has returned io.EOF.
func (s *stream) Sum() []byte {
	<-s.hashed
	return s.sum.Sum(nil)
}

// Close ends the goroutines and returns when the input is no longer read.
func (s *stream) Close() {
	close(s.stop)
	<-s.done
	<-s.hashed
}
