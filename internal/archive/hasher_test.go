package archive

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHasher: pieces of any size give the digest of the whole.
func TestHasher(t *testing.T) {
	data := make([]byte, (chunks+3)*chunkSize+17)
	_, err := io.ReadFull(rand.NewChaCha8([32]byte{}), data)
	require.NoError(t, err)
	for _, most := range []int{1 << 20, chunkSize, chunkSize - 1, 4097} {
		h := newHasher()
		for rest := data; len(rest) > 0; {
			n := min(len(rest), rand.IntN(most)+1)
			_, err := h.Write(rest[:n])
			require.NoError(t, err)
			rest = rest[n:]
		}
		want := sha256.Sum256(data)
		require.Equal(t, want[:], h.Sum())
	}
	empty := sha256.Sum256(nil)
	require.Equal(t, empty[:], newHasher().Sum())
}
