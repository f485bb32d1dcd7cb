package unionfs

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/uring"
)

// FUSE over io_uring, from Documentation/filesystems/fuse/fuse-io-uring.rst and
// include/uapi/linux/fuse.h.
//
// The kernel has a queue for each core that the machine may ever have, and puts a
// request into the queue of the core on which the program that asks runs. Before
// that it was given entries: memory for one request and its answer. An entry comes
// back to the program that gave it with a request, and goes to the kernel again with
// the answer. FORGET and INTERRUPT still come over /dev/fuse, and so does
// everything if an entry is refused.
//
// Here each entry belongs to a thread, which answers the request itself, so that
// nobody is woken but the one that asked, on the core that is awake already. The
// threads of a core are told to stay on it. As long as a thread is busy its entry
// is not with the kernel, so no request waits behind another; and the last of a
// core that gets busy brings a further one (grow).
//
// All entries begin with one thread, the usher, so that a machine of many cores has
// not as many threads for each view: when the first request of a core comes, the
// usher hands the entry, with the request, over to a thread of that core.

const (
	cmdRegister = 1 // FUSE_IO_URING_CMD_REGISTER
	cmdCommit   = 2 // FUSE_IO_URING_CMD_COMMIT_AND_FETCH

	// queueThreads is the most threads of one queue: as many requests of the
	// programs of one core are answered at a time.
	queueThreads = 32

	// leastUringWrite makes an entry large enough for a list of extended
	// attributes, which may have 64 KiB.
	leastUringWrite = 64 << 10
	mostWrite       = 1 << 20
)

// ringHeader is struct fuse_uring_req_header.
type ringHeader struct {
	inOut [128]byte // struct fuse_in_header, later struct fuse_out_header
	opIn  [128]byte // the first argument of the request
	flags uint64
	// commitID names the request in the command with its answer.
	commitID uint64
	payload  uint32 // bytes of the payload, in both directions
	_        uint32
	_        uint64
}

// ringCommand is struct fuse_uring_cmd_req.
type ringCommand struct {
	flags, commitID uint64
	queue           uint16
	_               [6]byte
}

// ringEntry is memory for one request and its answer: a page with the header and
// how the kernel is told of it, and the payload. What is not touched costs nothing.
type ringEntry struct {
	memory  []byte
	header  *ringHeader
	parts   []byte // two struct iovec
	payload []byte
	queue   uint16
}

func newRingEntry(queue uint16, payload int) (*ringEntry, error) {
	page := os.Getpagesize()
	m, err := unix.Mmap(-1, 0, page+payload, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("memory for requests: %w", err)
	}
	e := &ringEntry{memory: m, header: (*ringHeader)(unsafe.Pointer(&m[0])), payload: m[page:], queue: queue}
	parts := (*[2]unix.Iovec)(unsafe.Pointer(&m[512]))
	parts[0].Base, parts[1].Base = &m[0], &m[page]
	parts[0].SetLen(int(unsafe.Sizeof(ringHeader{})))
	parts[1].SetLen(payload)
	e.parts = m[512 : 512+unsafe.Sizeof(*parts)]
	return e, nil
}

func (e *ringEntry) free() { _ = unix.Munmap(e.memory) } // it was mapped

// uringTransport serves a connection over io_uring, beside a fuse.Server that
// serves what comes over /dev/fuse.
type uringTransport struct {
	device  int // a descriptor of the connection
	payload int // bytes of an entry's
	handler *fuse.ProtocolServer
	queues  []ringQueue
	threads sync.WaitGroup
	start   chan struct{} // tells the usher to register the entries, or to go
	begun   chan error    // what came of it
}

// ringQueue counts the threads of a core.
type ringQueue struct {
	all, idle atomic.Int32
	_         [56]byte // a cache line each: they are counted at every request
}

// newUringTransport prepares what the host can refuse, before the view is mounted:
// once the kernel was told of io_uring, it waits for it. The caller calls begin or
// dismiss, and wait at the end.
func newUringTransport(opt *Options) (*uringTransport, error) {
	if err := uringRefused(opt); err != nil {
		return nil, err
	}
	cores, err := possibleCores()
	if err != nil {
		return nil, err
	}
	page := os.Getpagesize()
	u := &uringTransport{
		payload: (cmp.Or(opt.MaxWrite, mostWrite) + page - 1) / page * page,
		queues:  make([]ringQueue, cores),
		start:   make(chan struct{}, 1), begun: make(chan error),
	}
	u.threads.Add(1)
	go u.usher()
	if err := <-u.begun; err != nil {
		u.wait()
		return nil, fmt.Errorf("transport=uring: this host allows no io_uring (kernel.io_uring_disabled, or a filter of system calls)%s: %w", insteadOfUring, err)
	}
	return u, nil
}

// dismiss takes back newUringTransport.
func (u *uringTransport) dismiss() { close(u.start) }

// begin takes the requests of the connection from the kernel. After an error the
// kernel goes on over /dev/fuse.
func (u *uringTransport) begin(settings *fuse.InitIn) error {
	if settings.Flags64()&fuse.CAP_OVER_IO_URING == 0 {
		u.dismiss()
		return errors.New("transport=uring: the kernel does not offer it any more")
	}
	u.start <- struct{}{}
	return <-u.begun
}

// wait returns when no thread serves any more, which is after the end of the
// connection.
func (u *uringTransport) wait() { u.threads.Wait() }

// usher registers an entry for each queue, and hands each over to a thread of its
// own with its first request.
func (u *uringTransport) usher() {
	defer u.threads.Done()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ring, err := uring.New(len(u.queues))
	if err != nil {
		u.begun <- err
		return
	}
	left := map[uint16]*ringEntry{} // with the kernel, from here
	defer func() {
		_ = ring.Close() // nothing is under way that anybody waits for
		for _, e := range left {
			e.free()
		}
	}()
	for queue := range u.queues {
		e, err := newRingEntry(uint16(queue), u.payload)
		if err != nil {
			u.begun <- err
			return
		}
		left[e.queue] = e
	}
	u.begun <- nil
	if _, ok := <-u.start; !ok {
		return
	}
	err = u.registerAll(ring, left)
	u.begun <- err
	if err == nil {
		u.receive(ring, left)
	}
}

// registerAll gives the kernel an entry for each queue. It begins to use them when
// it has them all.
func (u *uringTransport) registerAll(ring *uring.Ring, list map[uint16]*ringEntry) error {
	for _, e := range list {
		ring.Put(u.register(e))
	}
	if err := ring.Send(); err != nil {
		return err
	}
	if end, failed := ring.Ended(); failed && end.Err != nil {
		return fmt.Errorf("transport=uring: the kernel refuses memory for requests: %w", end.Err)
	}
	return nil
}

// receive hands over what comes until nothing is left.
func (u *uringTransport) receive(ring *uring.Ring, left map[uint16]*ringEntry) {
	for len(left) > 0 {
		end, err := ring.Wait()
		if err != nil {
			return
		}
		e := left[uint16(end.Tag)]
		switch {
		case end.Err != nil: // the connection has ended
			delete(left, e.queue)
			e.free()
		case u.handOver(e):
			delete(left, e.queue)
		default:
			u.answer(e)
			ring.Put(u.commit(e))
		}
	}
}

// handOver starts the first thread of a queue, with an entry that has a request.
// It tells whether there is one.
func (u *uringTransport) handOver(e *ringEntry) bool {
	u.queues[e.queue].all.Add(1)
	u.threads.Add(1)
	started := make(chan bool)
	go u.thread(e, started)
	return <-started
}

// grow starts a further thread of a queue. Without one requests may have to wait
// for each other.
func (u *uringTransport) grow(queue uint16) {
	q := &u.queues[queue]
	if q.all.Add(1) > queueThreads {
		q.all.Add(-1)
		return
	}
	e, err := newRingEntry(queue, u.payload)
	if err != nil {
		q.all.Add(-1)
		return
	}
	u.threads.Add(1)
	go u.thread(e, nil)
}

// thread answers the requests that come with one entry, on the core of its queue if
// it may run there. started is nil for an entry that the kernel does not have yet;
// else it is told whether the thread takes the entry and the request in it.
func (u *uringTransport) thread(e *ringEntry, started chan<- bool) {
	defer u.threads.Done()
	q := &u.queues[e.queue]
	defer q.all.Add(-1)
	runtime.LockOSThread()
	defer stayOn(int(e.queue))()
	ring, err := uring.New(1)
	if started != nil {
		started <- err == nil
	}
	if err != nil {
		if started == nil {
			e.free()
		}
		return
	}
	defer e.free()
	defer func() { _ = ring.Close() }() // nothing is under way any more
	if started == nil {
		ring.Put(u.register(e))
	} else {
		u.grow(e.queue)
		u.answer(e)
		ring.Put(u.commit(e))
	}
	for {
		q.idle.Add(1)
		end, err := ring.Wait()
		last := q.idle.Add(-1) == 0
		if err != nil || end.Err != nil {
			return // the connection has ended
		}
		if last {
			u.grow(e.queue)
		}
		u.answer(e)
		ring.Put(u.commit(e))
	}
}

// stayOn keeps the calling thread, which is locked, on a core, and returns how to
// let it go. Where it may not run there it runs where it may.
func stayOn(core int) (free func()) {
	var before, one unix.CPUSet
	one.Set(core)
	if unix.SchedGetaffinity(0, &before) != nil || !before.IsSet(core) || unix.SchedSetaffinity(0, &one) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		if unix.SchedSetaffinity(0, &before) == nil {
			runtime.UnlockOSThread() // else the thread ends with its goroutine
		}
	}
}

func (u *uringTransport) register(e *ringEntry) uring.Command {
	c := e.command(u.device, cmdRegister)
	c.Addr, c.Len = e.parts, 2
	return c
}

func (u *uringTransport) commit(e *ringEntry) uring.Command { return e.command(u.device, cmdCommit) }

func (e *ringEntry) command(device int, op uint32) uring.Command {
	c := ringCommand{commitID: e.header.commitID, queue: e.queue}
	return uring.Command{
		FD: device, Op: op, Tag: uint64(e.queue),
		Cmd: unsafe.Slice((*byte)(unsafe.Pointer(&c)), unsafe.Sizeof(c)),
	}
}

// answer puts the answer to the request in e into the place of the request.
func (u *uringTransport) answer(e *ringEntry) {
	in := (*fuse.InHeader)(unsafe.Pointer(&e.header.inOut[0]))
	unique := in.Unique
	const inSize, outSize = int(unsafe.Sizeof(fuse.InHeader{})), int(unsafe.Sizeof(fuse.OutHeader{}))
	first := int(in.Length) - inSize - int(e.header.payload)
	wrote := 0
	if first >= 0 && first <= len(e.header.opIn) && int(e.header.payload) <= len(e.payload) {
		wrote, _ = u.handler.HandleRequest(
			[][]byte{e.header.inOut[:inSize], e.header.opIn[:first], e.payload[:e.header.payload]},
			[][]byte{e.header.inOut[:outSize], e.payload})
	}
	if wrote < outSize { // no answer came of it
		wrote = outSize
		*(*fuse.OutHeader)(unsafe.Pointer(in)) = fuse.OutHeader{Length: uint32(outSize), Status: -int32(unix.EIO), Unique: unique}
	}
	e.header.payload = uint32(wrote - outSize)
}

// possibleCores is how many queues the kernel has.
func possibleCores() (int, error) {
	const path = "/sys/devices/system/cpu/possible"
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("transport=uring: %w", err)
	}
	count := 0
	for span := range strings.SplitSeq(strings.TrimSpace(string(text)), ",") {
		first, last, isRange := strings.Cut(span, "-")
		a, err := strconv.Atoi(first)
		b := a
		if isRange && err == nil {
			b, err = strconv.Atoi(last)
		}
		if err != nil {
			return 0, fmt.Errorf("transport=uring: %s has %q", path, text)
		}
		count += b - a + 1
	}
	return count, nil
}
