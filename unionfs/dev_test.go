package unionfs

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// slowFS has no files; a name that begins with "slow" is only found to be absent when
// the test lets it go on, and one that begins with "disk" after a while.
type slowFS struct {
	fuse.RawFileSystem
	asked chan string
	let   chan struct{}
}

func (s *slowFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Mode, out.Nlink = unix.S_IFDIR|0o755, 2
	return fuse.OK
}

func (s *slowFS) Lookup(_ <-chan struct{}, _ *fuse.InHeader, name string, _ *fuse.EntryOut) fuse.Status {
	switch {
	case strings.HasPrefix(name, "slow"):
		s.asked <- name
		<-s.let
	case strings.HasPrefix(name, "disk"):
		time.Sleep(200 * time.Microsecond)
	}
	return fuse.ENOENT
}

// serveSlow mounts a slowFS and serves it until the test ends. look asks for a name.
func serveSlow(t *testing.T, slow int) (raw *slowFS, d *devTransport, look func(name string)) {
	testenv.CheckLeaks(t)
	if !testenv.IsRoot() {
		t.Skip("needs root, to mount by itself")
	}
	mnt := t.TempDir()
	raw = &slowFS{fuse.NewDefaultRawFileSystem(), make(chan string, slow), make(chan struct{})}
	opt := &fuse.MountOptions{Name: "slow", FsName: "slow", MaxWrite: 1 << 20, DirectMountFlags: unix.MS_NOSUID}
	device, err := mountDevice(mnt, opt)
	require.NoError(t, err)
	own, err := unix.FcntlInt(uintptr(device), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(t, err)
	server, err := fuse.NewServer(raw, fmt.Sprintf("/dev/fd/%d", device), opt)
	require.NoError(t, err)
	handler := fuse.NewProtocolServer(raw, opt)
	require.NoError(t, replayInit(handler, server.KernelSettings()))
	d, err = newDevTransport(own, opt.MaxWrite, handler)
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		d.serve()
		server.Serve()
		must(unix.Close(own))
		close(served)
	}()
	t.Cleanup(func() {
		require.NoError(t, os.NewSyscallError("umount", unix.Unmount(mnt, 0)))
		<-served
	})
	return raw, d, func(name string) {
		if err := unix.Access(filepath.Join(mnt, name), unix.F_OK); err != unix.ENOENT {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDevThreads: while many requests wait, others are answered; and when that is over
// one thread reads alone.
func TestDevThreads(t *testing.T) {
	const slow = 40
	raw, d, look := serveSlow(t, slow)
	look("begun")
	var wg sync.WaitGroup
	for k := range slow {
		wg.Go(func() { look(fmt.Sprint("slow", k)) })
	}
	for range slow { // all of them are under way at a time
		<-raw.asked
	}
	for k := range 100 {
		look(fmt.Sprint("quick", k))
	}
	require.GreaterOrEqual(t, int(d.all.Load()), slow+1)
	close(raw.let)
	wg.Wait()
	require.Eventually(t, func() bool {
		for k := range 100 {
			look(fmt.Sprint("alone", k))
		}
		return d.awake() == 1
	}, 20*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return !d.watched.Load() }, 20*time.Second, time.Millisecond, "the watch sleeps when nothing comes")
	look("again")
}

// TestDevWaiters: requests that wait for a disk, though none for long, get more threads
// than there are cores.
func TestDevWaiters(t *testing.T) {
	_, d, look := serveSlow(t, 0)
	enough := int32(runtime.NumCPU() + 4)
	end := time.Now().Add(30 * time.Second)
	var wg sync.WaitGroup
	for client := range enough + 4 {
		wg.Go(func() {
			for k := 0; d.all.Load() < enough && time.Now().Before(end); k++ {
				look(fmt.Sprintf("disk%d.%d", client, k))
			}
		})
	}
	wg.Wait()
	require.GreaterOrEqual(t, d.all.Load(), enough)
}
