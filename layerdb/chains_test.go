package layerdb

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/layout"
)

// keepChain keeps content as the index of a chain.
func keepChain(s *Store, chain digest.Digest, content string) error {
	stage, err := s.Stage("index")
	if err != nil {
		return err
	}
	fresh := filepath.Join(stage.Path(), "fresh")
	err = os.WriteFile(fresh, []byte(content), 0o600)
	if err == nil {
		err = s.KeepChainFile(chain, fresh)
	}
	return errors.Join(err, stage.Discard())
}

func putChain(t *testing.T, s *Store, chain digest.Digest, content string) {
	t.Helper()
	require.NoError(t, keepChain(s, chain, content))
	got, err := os.ReadFile(s.ChainFile(chain))
	require.NoError(t, err)
	require.Equal(t, content, string(got))
}

func TestKeepChainFile(t *testing.T) {
	s := openStore(t)
	chain := digest.FromString("chain")
	require.NoDirExists(t, s.Path(layout.ChainsName), "made when it is needed")
	putChain(t, s, chain, "first")
	old, err := os.Open(s.ChainFile(chain))
	require.NoError(t, err)
	defer old.Close()
	putChain(t, s, chain, "second")
	read := make([]byte, len("first"))
	_, err = old.ReadAt(read, 0)
	require.NoError(t, err)
	require.Equal(t, "first", string(read), "who has it open keeps it")

	require.ErrorIs(t, s.KeepChainFile(chain, s.Path("absent")), os.ErrNotExist)
	got, err := os.ReadFile(s.ChainFile(chain))
	require.NoError(t, err)
	require.Equal(t, "second", string(got))
	require.Empty(t, names(t, s.Path(layout.TmpName)))
}

func TestCollectDropsIndexes(t *testing.T) {
	s := openStore(t)
	var left, right, top Layer
	var imgL, imgT Image
	require.NoError(t, s.Update(func(tx *Tx) error {
		base := stageLayer(t, s, tx, nil, "base")
		left = stageLayer(t, s, tx, &base, "left")
		right = stageLayer(t, s, tx, &base, "right")
		top = Layer{Empty: true, Parent: right.ID, ChainID: right.ChainID, Created: day}
		require.NoError(t, top.Seal())
		require.NoError(t, tx.PutLayer(top))
		imgL, imgT = image(left, "l"), image(top, "t")
		require.NoError(t, errors.Join(tx.PutImage(imgL), tx.PutImage(imgT)))
		return stageContainer(t, s, tx, Container{ID: "cc", Name: "n", Top: left.ID})
	}))
	base := digest.FromString("base")
	for _, chain := range []digest.Digest{base, left.ChainID, right.ChainID} {
		putChain(t, s, chain, "index")
	}
	require.NoError(t, os.WriteFile(s.Path(layout.ChainsName, "rubbish"), nil, 0o600))
	require.NoError(t, os.Mkdir(s.Path(layout.ChainsName, "rubbish.idx"), 0o700))
	collect := func(fn func(tx *Tx) error) []string {
		require.NoError(t, s.Update(func(tx *Tx) error {
			require.NoError(t, fn(tx))
			_, _, err := tx.Collect()
			return err
		}))
		return names(t, s.Path(layout.ChainsName))
	}
	leftName, rightName := filepath.Base(s.ChainFile(left.ChainID)), filepath.Base(s.ChainFile(right.ChainID))
	require.ElementsMatch(t, []string{leftName, rightName}, collect(func(tx *Tx) error { return tx.DeleteImage(imgL.ID) }),
		"a container stands on one, and an image, by a layer without files, on the other")
	require.Equal(t, []string{rightName}, collect(func(tx *Tx) error { return tx.DeleteContainer("cc") }))
	putChain(t, s, left.ChainID, "by a process that was slow")
	require.NoError(t, s.Sweep())
	require.Equal(t, []string{rightName}, names(t, s.Path(layout.ChainsName)))
	require.Empty(t, collect(func(tx *Tx) error { return tx.DeleteImage(imgT.ID) }))
}

// TestFailedUpdateKeepsIndexes: what a change would have removed stays if it fails.
func TestFailedUpdateKeepsIndexes(t *testing.T) {
	s := openStore(t)
	chain := digest.FromString("chain")
	putChain(t, s, chain, "index")
	failed := errors.New("failed")
	require.ErrorIs(t, s.Update(func(tx *Tx) error {
		_, _, err := tx.Collect()
		require.NoError(t, err)
		return failed
	}), failed)
	require.FileExists(t, s.ChainFile(chain))
}

// TestKilledWhileIndexing: the index is the old one, and what was begun is swept.
func TestKilledWhileIndexing(t *testing.T) {
	s := openStore(t)
	putChain(t, s, newLayer.ChainID, "first")
	require.Error(t, process(t, s.Root(), "index", "chain: built").Run())
	require.Len(t, names(t, s.Path(layout.TmpName)), 1)
	got, err := os.ReadFile(s.ChainFile(newLayer.ChainID))
	require.NoError(t, err)
	require.Equal(t, "first", string(got))
	require.NoError(t, s.SweepStages())
	require.Empty(t, names(t, s.Path(layout.TmpName)))
	require.NoError(t, process(t, s.Root(), "index", "").Run())
	got, err = os.ReadFile(s.ChainFile(newLayer.ChainID))
	require.NoError(t, err)
	require.Equal(t, "second", string(got))
}
