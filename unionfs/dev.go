package unionfs

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Requests over /dev/fuse, read by as few threads as will do.
//
// The kernel wakes the thread that has waited longest. With several that wait, each
// request goes to another one, which has neither the last core's caches nor the last
// buffer, so creating a file took a quarter more time with two of them than with one
// (docs/performance.md). So one thread reads, answers, and reads again; a further one
// is brought when
//
//   - the last requests were all there already when they were asked for: there is more
//     work than one core does, and up to as many threads as cores read; or
//   - requests pile up though the threads do not use the cores: they wait for a disk; or
//   - for a millisecond every thread was busy with its request: it copies a file up.
//
// The watch sees to the last two.
//
// A thread that finds another thread waiting, many times in a row, rests.

const (
	// devThreads is the most threads, and so the most requests under way.
	devThreads = 256

	// devQuick is less than a program takes to be woken and to ask again, and more
	// than reading a request that is there: from 7 us on, and 1 to 2.5 us here.
	devQuick = 4 * time.Microsecond

	// devBacklog is how many requests in a row have to be there already. One program
	// alone, on another core, has its next one ready a third of the times.
	devBacklog = 16

	// devPatience is how often a thread reads though another one waits.
	devPatience = 32

	// devTick is how long a request may keep the last thread from reading.
	devTick = time.Millisecond

	// devQuiet is how many ticks without a request end the watch.
	devQuiet = 20
)

// devTransport serves what comes over /dev/fuse.
type devTransport struct {
	device  int // a descriptor of the connection
	size    int // of the largest request and answer
	handler *fuse.ProtocolServer

	first    []byte // memory of the first thread
	threads  sync.WaitGroup
	all      atomic.Int32
	waiting  atomic.Int32  // threads that read
	resting  atomic.Int32  // threads that wait for call
	begun    atomic.Uint64 // requests
	behind   atomic.Bool   // requests have piled up
	watched  atomic.Bool   // the watch is awake
	call     chan struct{} // wakes a thread that rests
	rouse    chan struct{} // wakes the watch
	ended    chan struct{} // the connection has ended
	endsOnce sync.Once
}

// newDevTransport prepares to serve a connection whose requests and answers have
// mostWrite bytes of data. The descriptor stays the caller's.
func newDevTransport(device, mostWrite int, handler *fuse.ProtocolServer) (*devTransport, error) {
	page := os.Getpagesize()
	d := &devTransport{
		device: device, size: (mostWrite+page-1)/page*page + 4*page, handler: handler,
		call: make(chan struct{}, devThreads), rouse: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	var err error
	d.first, err = d.newMemory()
	return d, err
}

// newMemory maps what a thread has for one request and its answer. What is not touched
// costs nothing.
func (d *devTransport) newMemory() ([]byte, error) {
	m, err := unix.Mmap(-1, 0, 2*d.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("memory for requests: %w", err)
	}
	return m, nil
}

// serve answers requests until the connection ends.
func (d *devTransport) serve() {
	d.all.Store(1)
	d.threads.Go(d.watch)
	d.threads.Go(func() { d.thread(d.first) })
	d.threads.Wait()
}

// bring has one more thread read, if fewer than most do not rest.
func (d *devTransport) bring(most int) {
	for {
		resting := d.resting.Load()
		if d.awake() >= most {
			return
		}
		if resting == 0 {
			break
		}
		if d.resting.CompareAndSwap(resting, resting-1) {
			d.call <- struct{}{}
			return
		}
	}
	if d.all.Add(1) <= devThreads {
		if memory, err := d.newMemory(); err == nil {
			d.threads.Go(func() { d.thread(memory) })
			return
		}
	}
	d.all.Add(-1) // those that are there will come to it
}

// thread reads requests and answers them.
func (d *devTransport) thread(memory []byte) {
	defer func() { _ = unix.Munmap(memory) }() // it was mapped
	in, out := memory[:d.size], memory[d.size:]
	for backlog, spare := 0, 0; ; {
		d.waiting.Add(1)
		start := time.Now()
		n, err := unix.Read(d.device, in)
		waiting := d.waiting.Add(-1)
		if backlog++; time.Since(start) > devQuick {
			backlog = 0
		} else if backlog >= devBacklog && waiting == 0 {
			backlog = 0
			d.behind.Store(true)
			d.bring(runtime.NumCPU())
		}
		switch err {
		case nil:
		case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: the request was interrupted meanwhile
			continue
		default:
			d.endsOnce.Do(func() { close(d.ended) })
			return
		}
		d.begun.Add(1)
		d.see()
		d.answer(in[:n], out)
		if d.waiting.Load() == 0 {
			spare = 0
		} else if spare++; spare >= devPatience {
			spare = 0
			_ = unix.Madvise(memory, unix.MADV_DONTNEED) // the machine may have it back meanwhile
			if !d.rest() {
				return
			}
		}
	}
}

// answer does what a request asks for, and tells the kernel.
func (d *devTransport) answer(in, out []byte) {
	n, _ := d.handler.HandleRequest([][]byte{in}, [][]byte{out})
	if n < int(unsafe.Sizeof(fuse.OutHeader{})) {
		return // nobody waits for an answer
	}
	_, _ = unix.Write(d.device, out[:n]) // ENOENT: nobody waits any more
}

// rest waits until the thread is needed. It is false if the connection ended.
func (d *devTransport) rest() bool {
	d.resting.Add(1)
	select {
	case <-d.call:
		return true
	case <-d.ended:
		return false
	}
}

// see wakes the watch, if it sleeps.
func (d *devTransport) see() {
	if !d.watched.Load() && d.watched.CompareAndSwap(false, true) {
		d.rouse <- struct{}{}
	}
}

// watch brings further threads, one a tick, as long as requests come.
func (d *devTransport) watch() {
	for {
		select {
		case <-d.rouse:
		case <-d.ended:
			return
		}
		for d.ticks() {
		}
	}
}

// ticks is false when there is nothing to watch any more.
func (d *devTransport) ticks() bool {
	for quiet := 0; quiet < devQuiet; quiet++ {
		begun, behind, start := d.begun.Load(), d.behind.Swap(false), time.Now()
		var used time.Duration
		if behind {
			used = processorTime()
		}
		time.Sleep(devTick)
		select {
		case <-d.ended:
			return false
		default:
		}
		switch {
		case d.begun.Load() != begun:
			quiet = 0
			// A core that is not used is one that a thread waits beside.
			if behind && processorTime()-used < time.Since(start)*3/4*time.Duration(min(runtime.NumCPU(), d.awake())) {
				d.bring(devThreads)
			}
		case d.waiting.Load() == 0:
			quiet = 0
			d.bring(devThreads)
		}
	}
	begun := d.begun.Load()
	d.watched.Store(false)
	// Who has begun a request and saw us awake, before that, will not wake us.
	return (d.waiting.Load() == 0 || d.begun.Load() != begun) && d.watched.CompareAndSwap(false, true)
}

// awake is how many threads do not rest.
func (d *devTransport) awake() int { return int(d.all.Load() - d.resting.Load()) }

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
