package unionfs

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDeleteAt: at every place, in lists of every small length, and with what was cut
// off let go.
func TestDeleteAt(t *testing.T) {
	for length := 1; length < 7; length++ {
		for k := range length {
			whole := make([]*upperEntry, length)
			for i := range whole {
				whole[i] = &upperEntry{seq: uint64(i)}
			}
			want := slices.Delete(slices.Clone(whole), k, k+1)
			gone := whole[k]
			require.Equal(t, want, deleteAt(whole, k), "%d of %d", k, length)
			require.NotContains(t, whole, gone)
		}
	}
}
