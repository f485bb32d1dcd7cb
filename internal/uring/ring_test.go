package uring

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// TestShapes holds the structs to their sizes in the kernel.
func TestShapes(t *testing.T) {
	require.EqualValues(t, 120, unsafe.Sizeof(params{}))
	require.EqualValues(t, 128, unsafe.Sizeof(sqe{}))
	require.EqualValues(t, 48, unsafe.Offsetof(sqe{}.cmd))
	require.EqualValues(t, 16, unsafe.Sizeof(cqe{}))
}

func newRing(t *testing.T, size int) *Ring {
	t.Helper()
	testenv.CheckLeaks(t)
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	r, err := New(size)
	if err != nil {
		t.Skipf("needs io_uring as of Linux 6.6: %v; run `sysctl kernel.io_uring_disabled=0` as root", err)
	}
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// TestEachCommandComesBackOnce, also when more went through than the ring holds,
// with what its device says: /dev/null takes all commands, a file none.
func TestEachCommandComesBackOnce(t *testing.T) {
	r := newRing(t, 4)
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer file.Close()
	for round := range uint64(100) {
		want := map[uint64]bool{}
		for k := range uint64(4) {
			device := []*os.File{null, file}[k%2]
			r.Put(Command{FD: int(device.Fd()), Op: 1, Tag: 4*round + k})
			want[4*round+k] = true
		}
		for range 4 {
			end, err := r.Wait()
			require.NoError(t, err)
			require.Equal(t, end.Tag%2 == 1, end.Err != nil, end.Err)
			require.True(t, want[end.Tag], "%d came twice, or was never sent", end.Tag)
			delete(want, end.Tag)
		}
	}
}

// TestSend: what a device refuses has ended when it was sent.
func TestSend(t *testing.T) {
	r := newRing(t, 2)
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer file.Close()
	r.Put(Command{FD: int(file.Fd()), Tag: 7})
	_, ended := r.Ended()
	require.False(t, ended, "it was not sent")
	require.NoError(t, r.Send())
	end, ended := r.Ended()
	require.True(t, ended)
	require.Equal(t, End{Tag: 7, Err: unix.EOPNOTSUPP}, end)
	_, ended = r.Ended()
	require.False(t, ended)
}

// TestOnlyItsThread: the kernel refuses a ring to every other thread.
func TestOnlyItsThread(t *testing.T) {
	r := newRing(t, 1)
	refused := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		r.put(sqe{opcode: opNop})
		_, err := r.Wait()
		refused <- err
	}()
	require.ErrorIs(t, <-refused, unix.EEXIST)
}
