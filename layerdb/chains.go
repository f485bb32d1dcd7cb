package layerdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/varvefs/varve/internal/layout"
)

// KeepChainFile puts the file fresh, a whole index in a stage of this store, in the
// place of [Store.ChainFile]. Several processes may do so at once; the last one's stays.
// Who has the old file open keeps it.
func (s *Store) KeepChainFile(chainID digest.Digest, fresh string) error {
	s.hook("chain: built")
	// A store of an older varve has no such directory.
	if err := os.Mkdir(s.Path(layout.ChainsName), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keep an index: %w", err)
	}
	if err := os.Rename(fresh, s.ChainFile(chainID)); err != nil {
		return fmt.Errorf("keep an index: %w", err)
	}
	return nil
}

// sweepChains marks the indexes that nobody needs as trash.
func (tx *Tx) sweepChains() error {
	tops, err := tx.tops()
	if err != nil {
		return err
	}
	return tx.dropChains(tops)
}

// dropChains marks all that is in chains/ to be removed after the transaction, but
// for the indexes of the chains of which tops are the top layers.
func (tx *Tx) dropChains(tops []string) error {
	kept, err := tx.chainsOf(tops)
	if err != nil {
		return err
	}
	list, err := os.ReadDir(tx.store.Path(layout.ChainsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("find indexes: %w", err)
	}
	for _, e := range list {
		name, isIndex := strings.CutSuffix(e.Name(), layout.ChainSuffix)
		if !isIndex || !kept[digest.NewDigestFromEncoded(digest.Canonical, name)] {
			tx.trashFiles = append(tx.trashFiles, tx.store.Path(layout.ChainsName, e.Name()))
		}
	}
	return nil
}

// chainsOf are the chain IDs of the layers tops. A layer without files has that of
// the layer below.
func (tx *Tx) chainsOf(tops []string) (map[digest.Digest]bool, error) {
	chains := map[digest.Digest]bool{}
	for _, id := range tops {
		for id != "" {
			l, err := tx.Layer(id)
			if err != nil {
				return nil, err
			}
			if l.hasBytes() {
				chains[l.ChainID] = true
				break
			}
			id = l.Parent
		}
	}
	return chains, nil
}
