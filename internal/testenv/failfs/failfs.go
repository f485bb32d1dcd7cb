package failfs

import (
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// FS is a mounted one. All its methods may be called at any time.
type FS struct {
	mu    sync.Mutex
	plan  Plan // guarded by mu
	steps int  // guarded by mu; since the plan was made
}

// A Plan says which steps fail. The zero value lets all succeed.
type Plan struct {
	// At is the first step that fails, counted from 1; 0 is none.
	At int
	// Errno is what it fails with. ENOSPC spares what frees space.
	Errno syscall.Errno
	// Once: the steps after it succeed again.
	Once bool
}

// Mount shows the directory dir at the directory at, until the test ends. It takes
// root and /dev/fuse.
func Mount(t testing.TB, dir, at string) *FS {
	t.Helper()
	f := &FS{}
	var st syscall.Stat_t
	require.NoError(t, syscall.Stat(dir, &st))
	root := &fs.LoopbackRoot{Path: dir, Dev: st.Dev}
	top := &node{LoopbackNode: fs.LoopbackNode{RootData: root}, fs: f}
	root.RootNode = top
	server, err := fs.Mount(at, top, &fs.Options{MountOptions: fuse.MountOptions{
		DirectMountStrict: true, FsName: "varve-failfs", Name: "failfs", MaxWrite: 1 << 20, Options: []string{"default_permissions"},
	}})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, unix.Unmount(at, 0))
		ended := make(chan struct{})
		go func() { server.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(5 * time.Second): // a namespace of somebody else has a copy of the mount
		}
	})
	return f
}

// Set makes a plan, and begins to count anew.
func (f *FS) Set(p Plan) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan, f.steps = p, 0
}

// Steps is how many changes were tried under the plan.
func (f *FS) Steps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.steps
}

// step counts a change and tells whether it may be made; frees says that it makes
// room.
func (f *FS) step(frees bool) syscall.Errno {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps++
	p := f.plan
	fails := p.At > 0 && (f.steps == p.At || f.steps > p.At && !p.Once)
	if !fails || frees && p.Errno == syscall.ENOSPC {
		return fs.OK
	}
	return p.Errno
}
