package runner

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The watch forks for an exec; what it says is what comes of it; and without one it goes, too.
func TestExecByTheWatch(t *testing.T) {
	needRoot(t)
	cfg := Config{Root: busyboxRoot(t)}
	p := startSleeping(t, cfg)
	require.Equal(t, "hi\n", execOutput(t, p, cfg, "echo hi"), "there may be no watch yet")
	require.Eventually(t, func() bool { return p.watch.Load() != nil }, 10*time.Second, time.Millisecond)
	watches := p.watch.Load()
	for range 3 {
		require.Equal(t, "hi\n", execOutput(t, p, cfg, "echo hi"))
	}
	require.Empty(t, zombies(t), "those that only forked are reaped")

	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	mine, other := os.NewFile(uintptr(fds[0]), "door"), os.NewFile(uintptr(fds[1]), "door")
	defer func() { require.NoError(t, mine.Close()) }()
	p.watch.Store(&watch{door: mine})
	_, err = other.WriteString(fmt.Sprintf(`{"Errno": %d}`, unix.ENOSPC)) // to what is about to be asked
	require.NoError(t, err)
	failing := cfg
	failing.Args = []string{"true"}
	_, err = p.Exec(failing)
	require.ErrorIs(t, err, unix.ENOSPC)

	require.NoError(t, other.Close())
	require.Equal(t, "hi\n", execOutput(t, p, cfg, "echo hi"), "nobody is at the door")
	require.Empty(t, zombies(t))

	p.watch.Store(watches)
	require.NoError(t, unix.Kill(watches.proc.pid, unix.SIGKILL))
	require.Eventually(t, func() bool { // what it was asked just before is lost
		child, err := p.Exec(Config{Root: cfg.Root, Args: []string{"/bin/true"}})
		if err == nil {
			_, err = child.Wait()
		}
		return err == nil
	}, 10*time.Second, time.Millisecond)
}

// zombies are the children of this process that have ended and are not reaped, but for a watch.
func zombies(t *testing.T) (list []string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	parent := []byte(fmt.Sprintf(" Z %d ", os.Getpid()))
	for _, name := range stats {
		if data, err := os.ReadFile(name); err == nil && bytes.Contains(data, parent) {
			list = append(list, string(data))
		}
	}
	return list
}
