package unionfs

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestLeastRecentlyUsedIsClosed: of those that nobody uses; one in use stays, however
// many there are.
func TestLeastRecentlyUsedIsClosed(t *testing.T) {
	c := newFDCache(3)
	defer c.closeAll()
	key := func(id uint64) fdKey { return fdKey{kind: fileFD, id: id} }
	put := func(id uint64) *openFD {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		require.NoError(t, err)
		return c.put(key(id), fd, true)
	}
	kept := func() (list []uint64) {
		for id := range uint64(10) {
			if c.byKey[key(id)] != nil {
				list = append(list, id)
			}
		}
		return list
	}
	first := put(1)
	for id := range uint64(3) {
		put(2 + id).release()
	}
	require.Equal(t, []uint64{1, 3, 4}, kept())
	c.get(key(3), true).release()
	second := put(5)
	require.Equal(t, []uint64{1, 3, 5}, kept())
	put(6).release()
	require.Equal(t, []uint64{1, 5, 6}, kept())
	third := put(7)
	require.Equal(t, []uint64{1, 5, 7}, kept())
	fourth := put(8)
	require.Equal(t, []uint64{1, 5, 7, 8}, kept(), "all are in use")
	c.drop(key(5))
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(second.fd, &st), "somebody uses it")
	fd := second.fd
	second.release()
	require.ErrorIs(t, unix.Fstat(fd, &st), unix.EBADF)
	for _, o := range []*openFD{first, third, fourth} {
		o.release()
	}
	require.Equal(t, []uint64{1, 7, 8}, kept())
}

func TestTableOfDescriptorsGrowsAtOnce(t *testing.T) {
	limit, err := fdLimit(500)
	require.NoError(t, err)
	require.NoError(t, growTable(limit+500))
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	size, err := strconv.Atoi(string(regexp.MustCompile(`FDSize:\t(\d+)`).FindSubmatch(status)[1]))
	require.NoError(t, err)
	require.Greater(t, size, limit+500, "there is room for a full cache")
}
