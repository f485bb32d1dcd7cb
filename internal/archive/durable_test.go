package archive

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/layerdb"
)

// A small layer is synced file by file, what is in a directory before it, and a large
// one at once.
func TestSyncLayer(t *testing.T) {
	small, large := t.TempDir(), t.TempDir()
	require.NoError(t, os.MkdirAll(small+"/diff/a/b", 0o755))
	overwrite(t, small+"/diff/a/b/file", "data")
	overwrite(t, small+"/tar-split.gz", "data")
	require.NoError(t, os.Symlink("nowhere", small+"/diff/link"))
	require.NoError(t, unix.Mkfifo(small+"/diff/pipe", 0o600))
	files, err := fewBelow(openDir(t, small))
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"", "diff", "diff/a", "diff/a/b", "diff/a/b/file", "tar-split.gz"}, files)
	at := func(name string) int {
		for i, f := range files {
			if f == name {
				return i
			}
		}
		return -1
	}
	require.Less(t, at("diff/a/b/file"), at("diff/a/b"))
	require.Less(t, at("diff/a/b"), at("diff/a"))
	require.Less(t, at("diff"), at(""))

	for n := range fewFiles + 1 {
		overwrite(t, fmt.Sprint(large, "/", n), "data")
	}
	files, err = fewBelow(openDir(t, large))
	require.NoError(t, err)
	require.Nil(t, files)

	store, err := layerdb.Open(t.TempDir(), layerdb.Options{})
	require.NoError(t, err)
	for _, layer := range []string{small, large} {
		st, err := store.Stage("layer")
		require.NoError(t, err)
		require.NoError(t, os.Rename(layer, st.Path()+"/layer"))
		require.NoError(t, SyncLayer(st))
		require.NoError(t, st.Discard())
		require.ErrorIs(t, SyncLayer(st), os.ErrNotExist)
	}
}
