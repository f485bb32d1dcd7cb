package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/unionfs"
)

// statsSocket is where the server of a view listens for those who want its figures;
// nil if it does not.
type statsSocket struct {
	listener net.Listener
	path     string
	inode    unix.Stat_t // of the socket, to remove no other: while it is open, no other has its number
}

// longestSocket is the longest path of a socket in bytes, without the NUL: unix(7).
const longestSocket = 107

// listenStats makes the socket at path, an absolute one, for its owner alone, in the
// place of one whose server is gone; "" is none. Whoever connects waits until it is
// served.
func listenStats(path string) (*statsSocket, error) {
	if path == "" {
		return nil, nil
	}
	s := &statsSocket{path: path}
	if err := s.listen(); err != nil {
		return nil, fmt.Errorf("stats socket %q: %w", path, err)
	}
	return s, nil
}

func (s *statsSocket) listen() error {
	if len(s.path) > longestSocket {
		return fmt.Errorf("the path has %d bytes, and that of a socket has at most %d: choose a shorter one", len(s.path), longestSocket)
	}
	if err := clearStale(s.path); err != nil {
		return err
	}
	// The file takes the mode of the socket, so that nobody else can connect for a
	// moment: the umask of a server is 0.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) { err = os.NewSyscallError("fchmod", unix.Fchmod(int(fd), 0o600)) })
		return errors.Join(controlErr, err)
	}}
	listener, err := config.Listen(context.Background(), "unix", s.path)
	if err != nil {
		return container.ErrnoIn(err)
	}
	s.listener = listener
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // close looks whose it is by then
	if err := unix.Lstat(s.path, &s.inode); err != nil {
		return errors.Join(err, listener.Close())
	}
	return nil
}

// clearStale removes a socket that nobody listens on.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil // or its directory is not there, which bind tells
	case err != nil:
		return container.ErrnoIn(err)
	case info.Mode().Type() != os.ModeSocket:
		return errors.New("something else is there: remove it, or choose another path")
	}
	c, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return errors.Join(errors.New("another server answers there: choose another path, or unmount its view"), c.Close())
	case !errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("a socket is there, and whether its server is alive can not be told: %w", container.ErrnoIn(err))
	}
	return os.Remove(path)
}

// close removes the socket, unless it is no longer this one, and answers nobody more.
func (s *statsSocket) close() error {
	if s == nil {
		return nil
	}
	var now unix.Stat_t
	err := unix.Lstat(s.path, &now)
	switch {
	case err == nil && now.Dev == s.inode.Dev && now.Ino == s.inode.Ino:
		err = os.Remove(s.path)
	default:
		err = nil // somebody has removed it
	}
	return errors.Join(err, s.listener.Close())
}

const (
	// statsAtOnce is how many are answered at once; others wait.
	statsAtOnce = 32
	// statsPatience is how long an answer may take whom it is for.
	statsPatience = 5 * time.Second
)

// serve answers until the socket is closed.
func (s *statsSocket) serve(server *unionfs.Server, mountpoint string) {
	if s == nil {
		return
	}
	began := time.Now()
	turns := make(chan struct{}, statsAtOnce)
	for {
		turns <- struct{}{}
		c, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many descriptors, at this moment
			time.Sleep(100 * time.Millisecond)
			<-turns
			continue
		}
		go func() {
			// Who does not want to hear any more is not told why.
			_ = c.SetDeadline(time.Now().Add(statsPatience))
			if stats, ok := mountStats(server, mountpoint, began); ok {
				_ = json.NewEncoder(c).Encode(stats)
			}
			_ = c.Close()
			<-turns
		}()
	}
}

// mountStats are the figures of now; ok is false when the view is served no more.
func mountStats(server *unionfs.Server, mountpoint string, began time.Time) (s MountStats, ok bool) {
	view, ok := server.Stats()
	return MountStats{
		Version: StatsVersion, MountPoint: mountpoint, PID: os.Getpid(), Started: began,
		Uptime: time.Since(began).Seconds(), Stats: view, Memory: memoryStats(), Goroutines: runtime.NumGoroutine(),
	}, ok
}

// memoryStats reads what this process needs. Package runtime/metrics would not stop it for
// that, as this does for some microseconds, but costs each process a millisecond at its start.
func memoryStats() MemoryStats {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return MemoryStats{Heap: m.HeapAlloc, Go: m.Sys - m.HeapReleased, Resident: resident()}
}

// resident is the second number of /proc/self/statm, in bytes; 0 without /proc.
func resident() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	field := strings.Fields(string(text))
	if len(field) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(field[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
