package unionfs

import (
	"fmt"

	"github.com/varvefs/varve/internal/index"
)

// BuildIndex merges lowers, top first, and writes their index to file, for
// Options.Index: whole, durable, and in the place of what was there, or not at all.
// Who has an older one open keeps it. Layers with a Cut, and live ones, have none:
// [ErrNoIndex].
//
// The index holds what this process sees of the layers: their inode numbers, and
// owners and attributes as they are in its user namespace. Each Lower.ID has to be
// another one when any of that is; [Mount] compares them.
func BuildIndex(file string, lowers []Lower) error {
	if err := indexable(lowers); err != nil {
		return err
	}
	layers := make([]index.Layer, len(lowers))
	for i, l := range lowers {
		layers[i] = index.Layer{Path: l.Path, ID: l.ID}
	}
	return index.Build(file, layers)
}

// indexable refuses layers that show other files than those in their directories,
// or that change.
func indexable(lowers []Lower) error {
	for _, l := range lowers {
		if len(l.Cut) > 0 || l.Live {
			return fmt.Errorf("%w: parts of %q are cut out, or it is live", ErrNoIndex, l.Path)
		}
	}
	return nil
}
