package archive

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestPackUpperRefusesAFileWithoutItsData: zeros in its place would be a layer that
// looks right.
func TestPackUpperRefusesAFileWithoutItsData(t *testing.T) {
	root := t.TempDir()
	overwrite(t, root+"/file", "")
	require.NoError(t, os.Truncate(root+"/file", 5000))
	require.NoError(t, unix.Setxattr(root+"/file", "user.overlay.metacopy", nil, 0))
	_, err := PackUpper(root, stage(t), PackOptions{})
	require.ErrorContains(t, err, `pack "/": "file": the upper has only its metadata`)
}
