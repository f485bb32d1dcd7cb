package uring

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of include/uapi/linux/io_uring.h.
const (
	setupSQE128       = 1 << 10 // Linux 5.19
	setupSingleIssuer = 1 << 12 // Linux 6.0
	setupDeferTaskrun = 1 << 13 // Linux 6.1
	setupNoSQArray    = 1 << 16 // Linux 6.6

	offsetSQEs = 0x10000000

	enterGetEvents = 1

	opNop      = 0
	opURingCmd = 46
)

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32

	_  [3]uint32
	sq struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

// sqe is struct io_uring_sqe with 128 bytes.
type sqe struct {
	opcode, flags uint8
	_             uint16
	fd            int32
	cmdOp         uint32
	_             uint32
	addr          uint64
	len           uint32
	_             uint32
	userData      uint64
	_             uint64
	cmd           [80]byte
}

// cqe is struct io_uring_cqe.
type cqe struct {
	userData uint64
	res      int32
	_        uint32
}

// Command is one command to a device, as IORING_OP_URING_CMD has it.
type Command struct {
	FD   int    // the device; open until the command has ended
	Op   uint32 // what the device is to do
	Addr []byte // memory the device is told of by address, not of Go's heap; may be nil
	Len  uint32 // what the device takes for the length of Addr: not always bytes
	Cmd  []byte // at most 80 bytes, which are copied
	Tag  uint64 // comes back with the End
}

// End is how a command ended: with Err nil, or an errno.
type End struct {
	Tag uint64
	Err error
}

// Ring is one io_uring of one thread, the one that made it.
type Ring struct {
	fd      int
	ring    []byte
	entries []byte
	sq      []sqe
	cq      []cqe

	sqTail, cqHead, cqTail *uint32
	waiting                uint32 // put in, not yet handed to the kernel
}

// New makes a ring that holds up to size commands at a time, for the calling thread
// alone, and shows that it works. The caller closes it. It fails where the kernel or
// the host's rules have no io_uring: old kernels, containers,
// kernel.io_uring_disabled.
//
// Preconditions: the goroutine is locked to its thread as long as it uses the ring.
func New(size int) (*Ring, error) {
	p := params{flags: setupSQE128 | setupSingleIssuer | setupDeferTaskrun | setupNoSQArray}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(size), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("io_uring_setup", errno)
	}
	r := &Ring{fd: int(fd)}
	err := r.mapMemory(&p)
	if err == nil {
		err = r.try()
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// try has the ring do nothing: a host may allow to make a ring and not to use it.
func (r *Ring) try() error {
	r.put(sqe{opcode: opNop})
	end, err := r.Wait()
	return errors.Join(err, end.Err)
}

// mapMemory maps the two areas that are shared with the kernel.
func (r *Ring) mapMemory(p *params) (err error) {
	size := max(p.sq.array, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(cqe{})))
	if r.ring, err = mapShared(r.fd, 0, int(size)); err != nil {
		return err
	}
	if r.entries, err = mapShared(r.fd, offsetSQEs, int(p.sqEntries)*int(unsafe.Sizeof(sqe{}))); err != nil {
		return err
	}
	r.sq = unsafe.Slice((*sqe)(unsafe.Pointer(&r.entries[0])), p.sqEntries)
	r.cq = unsafe.Slice((*cqe)(unsafe.Pointer(&r.ring[p.cq.cqes])), p.cqEntries)
	r.sqTail = (*uint32)(unsafe.Pointer(&r.ring[p.sq.tail]))
	r.cqHead = (*uint32)(unsafe.Pointer(&r.ring[p.cq.head]))
	r.cqTail = (*uint32)(unsafe.Pointer(&r.ring[p.cq.tail]))
	return nil
}

func mapShared(fd int, offset int64, size int) ([]byte, error) {
	m, err := unix.Mmap(fd, offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map io_uring: %w", err)
	}
	return m, nil
}

// Put adds a command. It is on its way when Wait was called.
//
// Preconditions: fewer commands are under way than the ring's size.
func (r *Ring) Put(c Command) {
	e := sqe{opcode: opURingCmd, fd: int32(c.FD), cmdOp: c.Op, len: c.Len, userData: c.Tag}
	if len(c.Addr) > 0 {
		e.addr = uint64(uintptr(unsafe.Pointer(&c.Addr[0])))
	}
	copy(e.cmd[:], c.Cmd)
	r.put(e)
}

func (r *Ring) put(e sqe) {
	tail := *r.sqTail
	r.sq[tail&uint32(len(r.sq)-1)] = e
	atomic.StoreUint32(r.sqTail, tail+1)
	r.waiting++
}

// Wait sends off what was put in and waits until a command has ended. An error
// means that the ring itself is no longer of use.
func (r *Ring) Wait() (End, error) {
	for {
		if r.waiting == 0 {
			if end, ok := r.Ended(); ok {
				return end, nil
			}
		}
		if err := r.enter(1, enterGetEvents); err != nil {
			return End{}, err
		}
	}
}

// Send sends off what was put in. What the device refused has ended then.
func (r *Ring) Send() error {
	for r.waiting > 0 {
		if err := r.enter(0, 0); err != nil {
			return err
		}
	}
	return nil
}

// Ended takes one command that has ended, if there is one.
func (r *Ring) Ended() (End, bool) {
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return End{}, false
	}
	e := r.cq[head&uint32(len(r.cq)-1)]
	atomic.StoreUint32(r.cqHead, head+1)
	if e.res < 0 {
		return End{e.userData, unix.Errno(-e.res)}, true
	}
	return End{e.userData, nil}, true
}

func (r *Ring) enter(least, flags uintptr) error {
	sent, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.waiting), least, flags, 0, 0)
	switch errno {
	case 0:
		r.waiting -= uint32(sent)
	case unix.EINTR, unix.EAGAIN, unix.EBUSY: // a signal, or memory is short for a moment
	default:
		return os.NewSyscallError("io_uring_enter", errno)
	}
	return nil
}

// Close gives everything back. Commands that are under way are cancelled.
func (r *Ring) Close() error {
	var err error
	for _, m := range [][]byte{r.entries, r.ring} {
		if m != nil {
			err = errors.Join(err, unix.Munmap(m))
		}
	}
	return errors.Join(err, unix.Close(r.fd))
}
