package unionfs

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// fdKey names an open file of the cache: what it is for, and of whom.
type fdKey struct {
	kind fdKind
	// layer is the number of the lower layer for lowerDirFD; 0 otherwise.
	layer uint16
	id    uint64
}

type fdKind uint8

const (
	lowerDirFD  fdKind = iota // a directory of one lower layer; id is its Inum
	upperDirFD                // a directory of the upper; id is its node
	lowerFileFD               // a regular file of a lower layer; id is its Inum
	fileFD                    // a regular file of the upper; id is its node
)

// fdCache keeps descriptors open between requests, since no request of
// io=cached carries a file handle. The least recently used one that nobody is
// using is closed when there are too many. All methods may be called from
// several goroutines.
type fdCache struct {
	mu    sync.Mutex
	max   int
	byKey map[fdKey]*openFD
	// idle is the head of a ring of those that nobody uses, least recently used first.
	// They are linked by themselves: each request uses some, and releases them.
	idle openFD
}

// openFD is one descriptor. It may be used from get until release.
type openFD struct {
	fd       int
	writable bool

	cache *fdCache
	key   fdKey
	// guarded by cache.mu:
	users      int
	dropped    bool // no longer in byKey: closed with the last user
	prev, next *openFD
}

func newFDCache(limit int) *fdCache {
	c := &fdCache{max: limit, byKey: make(map[fdKey]*openFD)}
	c.idle.prev, c.idle.next = &c.idle, &c.idle
	return c
}

// get returns the descriptor of key, or nil if there is none open that may be
// written through when that is needed.
func (c *fdCache) get(key fdKey, writable bool) *openFD {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.byKey[key]
	if o == nil || (writable && !o.writable) {
		return nil
	}
	c.useLocked(o)
	return o
}

// put hands an open descriptor to the cache and returns it in use. If another
// request was quicker, its descriptor is used and fd is closed; but a writable
// one replaces one that is not.
func (c *fdCache) put(key fdKey, fd int, writable bool) *openFD {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.byKey[key]; o != nil {
		if o.writable || !writable {
			_ = unix.Close(fd) // just opened, nothing written
			c.useLocked(o)
			return o
		}
		c.dropLocked(o)
	}
	o := &openFD{fd: fd, writable: writable, cache: c, key: key, users: 1}
	c.byKey[key] = o
	c.shrinkLocked()
	return o
}

// drop forgets the descriptor of key: it is closed at once, or when the last
// user releases it.
func (c *fdCache) drop(key fdKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.byKey[key]; o != nil {
		c.dropLocked(o)
	}
}

// closeAll drops everything, for the unmount.
func (c *fdCache) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.byKey {
		c.dropLocked(o)
	}
}

func (o *openFD) release() {
	c := o.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	o.users--
	if o.users > 0 {
		return
	}
	if o.dropped {
		o.close()
		return
	}
	o.linkLocked()
	c.shrinkLocked()
}

// linkLocked makes o the last of those that nobody uses.
func (o *openFD) linkLocked() {
	head := &o.cache.idle
	o.prev, o.next = head.prev, head
	o.prev.next, head.prev = o, o
}

// unlinkLocked tells whether nobody was using o.
func (o *openFD) unlinkLocked() bool {
	if o.next == nil {
		return false
	}
	o.prev.next, o.next.prev = o.next, o.prev
	o.prev, o.next = nil, nil
	return true
}

func (c *fdCache) useLocked(o *openFD) {
	o.users++
	o.unlinkLocked()
}

func (c *fdCache) dropLocked(o *openFD) {
	delete(c.byKey, o.key)
	o.dropped = true
	if o.unlinkLocked() {
		o.close()
	}
}

func (c *fdCache) shrinkLocked() {
	for len(c.byKey) > c.max {
		if c.idle.next == &c.idle {
			return // all in use
		}
		c.dropLocked(c.idle.next)
	}
}

// close closes a descriptor whose writes were each answered already: what the
// close could report, fsync reports.
func (o *openFD) close() { _ = unix.Close(o.fd) }

// spareFDs is about what a process has open beside the cache.
const spareFDs = 64

// growTable makes the process's table of descriptors large enough for a full cache, or
// whatever limit counts.
// The kernel doubles it when it is full, and the one who opens waits until all
// processors have noticed, 5 to 8 ms: five times on the way to 4096.
func growTable(limit int) error {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, limit+spareFDs)
	if err == nil {
		err = unix.Close(high)
	}
	return errors.Join(os.NewSyscallError("dup", err), unix.Close(fd))
}
