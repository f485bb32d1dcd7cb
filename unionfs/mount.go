package unionfs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Server is a mounted view that is being served.
type Server struct {
	fs        *FS
	server    *fuse.Server
	dev       *devTransport   // nil if go-fuse serves /dev/fuse
	uring     *uringTransport // nil if all requests come over /dev/fuse
	device    int             // a descriptor of the connection for dev and uring
	transport Transport
	mnt       string
	done      chan struct{}

	closing sync.RWMutex // held while somebody looks at fs who is no request
	closed  bool
}

// Mount mounts a view at mountpoint, a directory, and serves it until it is
// unmounted. It returns when the view answers. Nothing but this and transport.go
// knows how requests arrive.
//
// As root of its user namespace it mounts by itself, from /dev/fuse; otherwise
// it asks fusermount3.
func Mount(mountpoint string, opt Options) (*Server, error) {
	if err := checkDir("mount point", mountpoint); err != nil {
		return nil, err
	}
	if err := opt.check(mountpoint); err != nil {
		return nil, err
	}
	if opt.IO != Auto {
		return mount(mountpoint, opt)
	}
	if opt.IO = Cached; os.Geteuid() == 0 {
		opt.IO = Passthrough
	}
	s, err := mount(mountpoint, opt)
	if errors.As(err, new(errNoPassthrough)) {
		opt.IO = Cached
		return mount(mountpoint, opt)
	}
	return s, err
}

// mount is Mount for checked options with one mode.
func mount(mountpoint string, opt Options) (*Server, error) {
	fs, err := newFS(opt)
	if err != nil {
		return nil, err
	}
	s := &Server{fs: fs, mnt: mountpoint, done: make(chan struct{})}
	if err := s.connect(); err != nil {
		fs.close()
		return nil, mountError(mountpoint, err)
	}
	if opt.IO == Passthrough {
		err = fs.probePassthrough() // before the first request
	}
	go s.serve()
	if err == nil {
		err = s.begin()
	} else if s.uring != nil {
		s.uring.dismiss()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount at %q: %w", mountpoint, err), s.Unmount())
	}
	return s, nil
}

// Init is called by the library once the kernel and it have agreed, before the
// first request.
func (fs *FS) Init(server *fuse.Server) { fs.server = server }

// Mode is how the data of open files travels: as the options said, or what Auto
// took.
func (s *Server) Mode() Mode { return s.fs.opt.IO }

// Transport is the way on which requests come: as the options said, or what
// TransportAuto took.
func (s *Server) Transport() Transport { return s.transport }

func (s *Server) serve() {
	most := s.fs.fds.max + len(s.fs.opt.Lowers)
	go func() { _ = growTable(most) }() // without it only the opens that find it full are slow
	s.receive()
	s.closing.Lock()
	s.fs.close()
	s.closed = true
	s.closing.Unlock()
	close(s.done)
}

// Wait returns when the view was unmounted, by Unmount or by umount(8), and all
// descriptors are closed.
func (s *Server) Wait() { <-s.done }

// Unmount unmounts the view and waits until it is served no more. A view in use
// gives EBUSY and stays.
func (s *Server) Unmount() error {
	if err := s.unmount(); err != nil {
		return fmt.Errorf("unmount %q: %w", s.mnt, err)
	}
	s.Wait()
	return nil
}

// Detach takes the view out of the tree of files, also one in use, without
// waiting: it is served until the last program has left it, and then Wait returns.
func (s *Server) Detach() error {
	var err error
	if os.Geteuid() == 0 {
		err = unix.Unmount(s.mnt, unix.MNT_DETACH)
	} else if out, cmdErr := exec.Command("fusermount3", "-u", "-z", s.mnt).CombinedOutput(); cmdErr != nil {
		err = fmt.Errorf("%w: %s", cmdErr, bytes.TrimSpace(out))
	}
	if err != nil {
		return fmt.Errorf("detach %q: %w", s.mnt, err)
	}
	return nil
}

// mountOptions are measured in docs/performance.md, but for what correctness
// asks for: the kernel checks permissions (it alone knows the groups of a
// caller), and drops cached data only when we say so (nobody else writes).
func mountOptions(opt *Options) *fuse.MountOptions {
	m := &fuse.MountOptions{
		AllowOther:               opt.AllowOther,
		FsName:                   cmp.Or(opt.Name, "varve"),
		Name:                     cmp.Or(opt.Type, "varve"),
		MaxWrite:                 cmp.Or(opt.MaxWrite, mostWrite),
		MaxBackground:            64,
		DisableSplice:            true, // its pipes are kept for good, and replies are written from memory
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		DirectMount:              os.Geteuid() == 0,
		DirectMountStrict:        os.Geteuid() == 0,
		Options:                  []string{"default_permissions"},
		EnableAcl:                !opt.NoACL && opt.Override == NoOverride,
		ExtraCapabilities:        fuse.CAP_DONT_MASK | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_SETXATTR_EXT,
		DisabledCapabilities:     fuse.CAP_PASSTHROUGH | fuse.CAP_ALLOW_IDMAP,
		Debug:                    opt.Log != nil,
		Logger:                   opt.Log,
	}
	switch {
	case opt.IO == Writeback && opt.Upper != "":
		m.ExtraCapabilities |= fuse.CAP_WRITEBACK_CACHE
	case opt.IO == Passthrough:
		m.DisabledCapabilities &^= fuse.CAP_PASSTHROUGH
	}
	if opt.IO.hearsOpen() {
		m.ExtraCapabilities |= fuse.CAP_ATOMIC_O_TRUNC // else a file is copied up to be truncated
	}
	m.DirectMountFlags = unix.MS_NOATIME
	if !opt.Suid {
		m.DirectMountFlags |= unix.MS_NOSUID
	}
	if !opt.Dev {
		m.DirectMountFlags |= unix.MS_NODEV
	}
	if opt.NoExec {
		m.Options = append(m.Options, "noexec") // understood on both ways of mounting
	}
	if opt.Upper == "" {
		m.DirectMountFlags |= unix.MS_RDONLY
		if !m.DirectMount {
			m.Options = append(m.Options, "ro")
		}
	}
	return m
}

// mountError says what to do about the usual reasons.
func mountError(mountpoint string, err error) error {
	hint := ""
	switch _, statErr := os.Stat("/dev/fuse"); {
	case errors.Is(statErr, os.ErrNotExist):
		hint = "; this machine has no /dev/fuse: load the module with \"modprobe fuse\" as root"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		hint = "; is /dev/fuse open to this user? (\"chmod 0666 /dev/fuse\" as root)"
	case strings.Contains(err.Error(), "fusermount"):
		hint = "; install fuse3, or run it as root or in a user namespace"
	}
	return fmt.Errorf("mount at %q: %w%s", mountpoint, err, hint)
}
