package container

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// TestSameUser: who is another user is not listened to, though nothing kept him from the
// socket. (Its mode is held by TestWatchStays.)
func TestSameUser(t *testing.T) {
	testenv.Root(t)
	name := filepath.Join(testenv.Dir(t), "socket")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: name})
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	require.NoError(t, os.Chmod(name, 0o777))
	for uid, want := range map[uintptr]bool{uintptr(os.Geteuid()): true, 54321: false} {
		dialed := make(chan error, 1)
		hold := make(chan struct{})
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread, which is that user, ends with the goroutine
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
				dialed <- errno
				return
			}
			conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: name})
			dialed <- err
			<-hold
			if err == nil {
				_ = conn.Close() // nothing was written
			}
		}()
		require.NoError(t, <-dialed)
		conn, err := listener.AcceptUnix()
		require.NoError(t, err)
		require.Equal(t, want, sameUser(conn), uid)
		require.NoError(t, conn.Close())
		close(hold)
	}
}
