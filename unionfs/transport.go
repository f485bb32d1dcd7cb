package unionfs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// Transport is the way on which requests come from the kernel to a view. What
// programs see is the same on all of them.
type Transport uint8

const (
	// TransportAuto takes TransportUring where this machine has it switched on and
	// lets this process use it, and TransportDev elsewhere; [Server.Transport] says
	// which.
	TransportAuto Transport = iota
	// TransportDev reads requests from /dev/fuse and writes the answers to it.
	TransportDev
	// TransportUring has the kernel put each request into the memory of a thread
	// on the core of the program that asks (uring.go). It needs Linux 6.14, the
	// parameter enable_uring of the module fuse, and root of the user namespace.
	TransportUring
)

var transportNames = []string{"auto", "dev", "uring"}

// String is the name as ParseTransport reads it.
func (t Transport) String() string {
	if int(t) < len(transportNames) {
		return transportNames[t]
	}
	return fmt.Sprintf("Transport(%d)", uint8(t))
}

// ParseTransport reads the value of the mount option transport. Empty means
// TransportAuto.
func ParseTransport(text string) (Transport, error) {
	if text == "" {
		return TransportAuto, nil
	}
	if k := slices.Index(transportNames, text); k >= 0 {
		return Transport(k), nil
	}
	return TransportAuto, fmt.Errorf("unknown transport %q: it is one of auto, dev and uring", text)
}

// uringSwitch is the parameter without which the kernel offers no view io_uring.
const uringSwitch = "/sys/module/fuse/parameters/enable_uring"

const insteadOfUring = "; transport=auto takes what there is"

// uringRefused says why a view can not be served over io_uring here, and what to do
// about it; nil if nothing speaks against it.
func uringRefused(opt *Options) error {
	value, err := os.ReadFile(uringSwitch)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("transport=uring needs Linux 6.14, built with CONFIG_FUSE_IO_URING" + insteadOfUring)
	case err != nil:
		return fmt.Errorf("transport=uring: %w%s", err, insteadOfUring)
	case strings.TrimSpace(string(value)) != "Y":
		return errors.New("transport=uring is switched off on this machine: as root, echo Y > " + uringSwitch + insteadOfUring)
	case os.Geteuid() != 0:
		return errors.New("transport=uring needs root, if only of a user namespace (unshare --map-root-user --mount)" + insteadOfUring)
	case opt.MaxWrite != 0 && opt.MaxWrite < leastUringWrite:
		return fmt.Errorf("transport=uring needs max_write=%d or more%s", leastUringWrite, insteadOfUring)
	}
	return nil
}

// connect mounts the view and comes to terms with the kernel. No request has been
// answered then.
func (s *Server) connect() (err error) {
	opt := &s.fs.opt
	if opt.Transport != TransportDev {
		s.uring, err = newUringTransport(opt)
		if err != nil && opt.Transport == TransportUring {
			return err
		}
	}
	if os.Geteuid() != 0 {
		s.server, err = fuse.NewServer(s.fs.raw(), s.mnt, mountOptions(opt))
		return err
	}
	if err = s.connectDirectly(); err != nil && s.uring != nil {
		s.uring.dismiss()
	}
	return err
}

// connectDirectly mounts by itself, since go-fuse does not tell its descriptor, lets
// go-fuse come to terms with the kernel, and has our own threads serve what follows.
func (s *Server) connectDirectly() error {
	m := mountOptions(&s.fs.opt)
	device, err := mountDevice(s.mnt, m)
	if err != nil {
		return err
	}
	m.DirectMount, m.DirectMountStrict = false, false
	if s.uring != nil {
		m.ExtraCapabilities |= fuse.CAP_OVER_IO_URING
	}
	if s.device, err = unix.FcntlInt(uintptr(device), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		err = errors.Join(os.NewSyscallError("fcntl", err), unix.Close(device))
	} else if s.server, err = fuse.NewServer(s.fs.raw(), fmt.Sprintf("/dev/fd/%d", device), m); err != nil {
		err = errors.Join(err, unix.Close(s.device))
	}
	if err != nil {
		return errors.Join(err, unix.Unmount(s.mnt, unix.MNT_DETACH))
	}
	handler := fuse.NewProtocolServer(s.fs.raw(), mountOptions(&s.fs.opt))
	if err = replayInit(handler, s.server.KernelSettings()); err == nil {
		s.dev, err = newDevTransport(s.device, m.MaxWrite, handler)
	}
	if err != nil {
		err = errors.Join(err, unix.Unmount(s.mnt, unix.MNT_DETACH))
		s.server.Serve() // closes its descriptor
		return errors.Join(err, unix.Close(s.device))
	}
	if s.uring != nil {
		s.uring.device, s.uring.handler = s.device, handler
	}
	return nil
}

// replayInit tells a handler what the kernel has told the server.
func replayInit(handler *fuse.ProtocolServer, settings *fuse.InitIn) error {
	in := unsafe.Slice((*byte)(unsafe.Pointer(settings)), unsafe.Sizeof(*settings))
	out := make([]byte, unsafe.Sizeof(fuse.OutHeader{})+unsafe.Sizeof(fuse.InitOut{}))
	if _, st := handler.HandleRequest([][]byte{in}, [][]byte{out}); !st.Ok() {
		return fmt.Errorf("INIT: %v", st)
	}
	return nil
}

// begin lets the requests come, and returns when the view answers.
func (s *Server) begin() error {
	s.transport = TransportDev
	if s.uring != nil {
		err := s.uring.begin(s.server.KernelSettings())
		if err == nil {
			s.transport = TransportUring
		} else if s.fs.opt.Transport == TransportUring {
			return err
		}
	}
	if s.dev == nil {
		return s.server.WaitMount()
	}
	return refusePoll(s.mnt)
}

// receive serves the view until it is unmounted.
func (s *Server) receive() {
	if s.dev != nil {
		s.dev.serve()
	}
	s.server.Serve() // after dev it finds the connection ended, and closes its descriptor
	if s.uring != nil {
		s.uring.wait()
	}
	if s.dev != nil {
		_ = unix.Close(s.device) // the connection has ended
	}
}

// mountDevice mounts as fuse.MountOptions.DirectMount does, and returns the
// descriptor of the connection.
func mountDevice(mountpoint string, m *fuse.MountOptions) (int, error) {
	var st unix.Stat_t
	if err := at.Stat(at.CWD, mountpoint, &st); err != nil {
		return -1, err
	}
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/dev/fuse", Err: err}
	}
	flags := m.DirectMountFlags
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d",
		device, st.Mode&unix.S_IFMT, os.Geteuid(), os.Getegid(), m.MaxWrite)
	for _, o := range m.Options {
		if o == "noexec" {
			flags |= unix.MS_NOEXEC
		} else {
			options += "," + o
		}
	}
	if m.AllowOther {
		options += ",allow_other"
	}
	if err := unix.Mount(m.FsName, mountpoint, "fuse."+m.Name, flags, options); err != nil {
		return -1, errors.Join(os.NewSyscallError("mount", err), unix.Close(device))
	}
	return device, nil
}

// unmount is fuse.Server.Unmount, also for what was mounted by mountDevice.
func (s *Server) unmount() (err error) {
	if s.dev == nil {
		return s.server.Unmount()
	}
	for pause := 5 * time.Millisecond; ; pause *= 2 {
		// Files that were closed are released later: by a worker of the kernel, or by
		// Go's poller, which holds each file for a moment. On an overloaded machine
		// that moment lasts.
		if err = unix.Unmount(s.mnt, 0); err != unix.EBUSY || pause > 320*time.Millisecond {
			return err
		}
		time.Sleep(pause)
	}
}

// refusePoll has the kernel hear once that there is no poll, so that it asks never
// again. Go's poller asks for every file it opens, and a program that uses its own
// view could have no thread left to answer.
func refusePoll(mountpoint string) error {
	path := mountpoint + "/.go-fuse-epoll-hack" // go-fuse answers for it
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) // the refusal is what it is for
	return unix.Close(fd)
}
