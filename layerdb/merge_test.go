package layerdb

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/layout"
)

func countTables(t *testing.T, s *Store) int {
	t.Helper()
	list, err := filepath.Glob(s.Path(dbName, "*.sst"))
	require.NoError(t, err)
	return len(list)
}

// TestMergeThatFails: updates go on without it, nothing is lost, and a later one
// merges.
func TestMergeThatFails(t *testing.T) {
	s := openStore(t)
	fill(t, s)
	want := dump(t, s)
	tmp := s.Path(layout.TmpName)
	require.NoError(t, os.Rename(tmp, tmp+"-away"))
	for range mergeAt + 3 {
		require.NoError(t, s.Update(func(*Tx) error { return nil }))
	}
	require.Greater(t, countTables(t, s), mergeAt)
	require.Equal(t, want, dump(t, s))
	require.NoError(t, os.Rename(tmp+"-away", tmp))
	require.NoError(t, s.Update(func(*Tx) error { return nil }))
	require.Equal(t, 1, countTables(t, s))
	require.Equal(t, want, dump(t, s))
	require.Empty(t, names(t, tmp))
}

// TestKilledWhileMerging: a process that ends when the new database has taken its
// place leaves the old one for the sweeper, and no update is lost.
func TestKilledWhileMerging(t *testing.T) {
	s := openStore(t)
	require.NoError(t, s.Update(func(tx *Tx) error { return tx.PutImage(image(stageLayer(t, s, tx, nil, "l"), "i")) }))
	require.Error(t, process(t, s.Root(), "tags 1", "database: replaced").Run())
	require.NoError(t, s.View(func(tx *Tx) error {
		raw, err := tx.get("counter")
		require.NoError(t, err)
		count, err := strconv.Atoi(string(raw))
		require.NoError(t, err)
		require.Greater(t, count, mergeAt-3)
		tags, err := tx.Tags()
		require.Len(t, tags, count)
		return err
	}))
	require.NotEmpty(t, names(t, s.Path(layout.TmpName)))
	require.NoError(t, s.Sweep())
	require.Empty(t, names(t, s.Path(layout.TmpName)))
	images, _ := whole(t, s)
	require.Equal(t, 1, images)
}
