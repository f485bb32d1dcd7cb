package whiteout

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What is written is read back; a word that means nothing is the file itself.
func TestStandIn(t *testing.T) {
	for word, want := range map[string]struct {
		kind uint32
		rdev uint64
	}{
		"symlink": {unix.S_IFLNK, 0}, "pipe": {unix.S_IFIFO, 0}, "socket": {unix.S_IFSOCK, 0},
		"char-1-3": {unix.S_IFCHR, unix.Mkdev(1, 3)}, "block-259-7": {unix.S_IFBLK, unix.Mkdev(259, 7)},
	} {
		kind, rdev, err := StandIn(word)
		require.NoError(t, err, word)
		require.Equal(t, want.kind, kind, word)
		require.Equal(t, want.rdev, rdev, word)
		require.Equal(t, word, StandInWord(kind, rdev))
	}
	for _, word := range []string{"", "file", "dir", "nonsense"} {
		kind, _, err := StandIn(word)
		require.NoError(t, err, word)
		require.EqualValues(t, unix.S_IFREG, kind, word)
	}
	for _, word := range []string{"char", "char-1", "block-1-2-3", "char-x-1", "block-1--2", "char-4294967296-0"} {
		_, _, err := StandIn(word)
		require.Error(t, err, word)
	}
	require.Empty(t, StandInWord(unix.S_IFREG, 0))
	require.Empty(t, StandInWord(unix.S_IFDIR, 0))
}
