package runner

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A word of the teller's is heard by who waits for it. Others look at the same lines for those
// that are free again: one who took the word would leave him waiting for two seconds.
func TestTellersWordIsHeardByWhoWaits(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	ours, desk := os.NewFile(uintptr(fds[0]), "desk"), os.NewFile(uintptr(fds[1]), "desk")
	w := &window{desk: ours, busy: map[uint32]*line{}}
	teller := &teller{now: w}
	end := func() *os.File {
		buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := recvmsg(int(desk.Fd()), buf, oob, 0)
		require.NoError(t, err)
		f, err := receivedFile(oob[:n])
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
		return f
	}
	take := func(tid uint32, isFresh bool) *line {
		l, fresh, err := w.lineFor(tid)
		require.NoError(t, err)
		require.Equal(t, isFresh, fresh)
		return l
	}
	first := take(1, true)
	firstEnd := end()
	say(firstEnd, tellReady)
	second := take(2, true)
	secondEnd := end()
	said, err := first.hear(unix.MSG_DONTWAIT)
	require.NoError(t, err)
	require.Equal(t, "r", said, "the second left the first one's word alone")

	say(firstEnd, tellReady)
	require.NoError(t, teller.await(first, 1))
	require.Same(t, first, take(1, false), "it is not done with that one yet")
	say(firstEnd, tellDone)
	say(secondEnd, tellReady, tellDone)
	require.NoError(t, teller.await(second, 2))
	require.Same(t, first, take(3, true), "it is done with that one now, too")
	require.Same(t, second, take(4, true), "it was done with the second at once")
	require.Len(t, w.busy, 2)
	for _, f := range []*os.File{first.file, second.file, ours, desk} {
		require.NoError(t, f.Close())
	}
}
