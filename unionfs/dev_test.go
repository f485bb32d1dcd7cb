package unionfs

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// slowFS has no files; a name that begins with "slow" is only found to be absent when
// the test lets it go on.
type slowFS struct {
	fuse.RawFileSystem
	asked chan string
	let   chan struct{}
}

func (s *slowFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Mode, out.Nlink = unix.S_IFDIR|0o755, 2
	return fuse.OK
}

func (s *slowFS) Lookup(cancel <-chan struct{}, _ *fuse.InHeader, name string, _ *fuse.EntryOut) fuse.Status {
	if len(name) > 4 && name[:4] == "slow" {
		s.asked <- name
		<-s.let
	}
	return fuse.ENOENT
}

// TestDevThreads serves a file system whose requests take as long as the test likes:
// while many wait, others are answered; and when that is over one thread reads alone.
func TestDevThreads(t *testing.T) {
	testenv.CheckLeaks(t)
	if !testenv.IsRoot() {
		t.Skip("needs root, to mount by itself")
	}
	const slow = 40
	mnt := t.TempDir()
	raw := &slowFS{fuse.NewDefaultRawFileSystem(), make(chan string, slow), make(chan struct{})}
	opt := &fuse.MountOptions{Name: "slow", FsName: "slow", MaxWrite: 1 << 20, DirectMountFlags: unix.MS_NOSUID}
	device, err := mountDevice(mnt, opt)
	require.NoError(t, err)
	own, err := unix.FcntlInt(uintptr(device), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(t, err)
	server, err := fuse.NewServer(raw, fmt.Sprintf("/dev/fd/%d", device), opt)
	require.NoError(t, err)
	handler := fuse.NewProtocolServer(raw, opt)
	require.NoError(t, replayInit(handler, server.KernelSettings()))
	d, err := newDevTransport(own, opt.MaxWrite, handler)
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		d.serve()
		server.Serve()
		must(unix.Close(own))
		close(served)
	}()
	look := func(name string) {
		if err := unix.Access(filepath.Join(mnt, name), unix.F_OK); err != unix.ENOENT {
			t.Errorf("%s: %v", name, err)
		}
	}
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
		return d.all.Load()-d.resting.Load() == 1
	}, 20*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return !d.watched.Load() }, 20*time.Second, time.Millisecond, "the watch sleeps when nothing comes")
	look("again")
	require.NoError(t, os.NewSyscallError("umount", unix.Unmount(mnt, 0)))
	<-served
}
