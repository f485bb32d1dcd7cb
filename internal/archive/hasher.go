package archive

import (
	"crypto/sha256"
	"hash"
)

// hasher takes the sha256 of what is written to it in a goroutine of its own, beside
// the writer's work. It holds at most chunks times chunkSize bytes. It is for one
// goroutine.
type hasher struct {
	sum  hash.Hash // owned by the goroutine until done is closed
	free chan []byte
	full chan []byte
	done chan struct{}
	cur  []byte // not full yet; nil before the first
}

// newHasher begins. Sum must be called, once, also after an error of something else.
func newHasher() *hasher {
	h := &hasher{sum: sha256.New(), free: make(chan []byte, chunks), full: make(chan []byte, chunks), done: make(chan struct{})}
	for range chunks {
		h.free <- nil // made when it is needed: most layers are small
	}
	go h.run()
	return h
}

func (h *hasher) run() {
	defer close(h.done)
	for chunk := range h.full {
		h.sum.Write(chunk)
		h.free <- chunk[:0] // never blocks: it has room for all chunks
	}
}

// Write takes a copy of p. It never fails.
func (h *hasher) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if h.cur == nil {
			if h.cur = <-h.free; h.cur == nil {
				h.cur = make([]byte, 0, chunkSize)
			}
		}
		n := min(len(rest), chunkSize-len(h.cur))
		h.cur, rest = append(h.cur, rest[:n]...), rest[n:]
		if len(h.cur) == chunkSize {
			h.full <- h.cur // never blocks: it has room for all chunks
			h.cur = nil
		}
	}
	return len(p), nil
}

// Sum ends the goroutine and returns the digest of all that was written.
func (h *hasher) Sum() []byte {
	if len(h.cur) > 0 {
		h.full <- h.cur
	}
	close(h.full)
	<-h.done
	return h.sum.Sum(nil)
}
