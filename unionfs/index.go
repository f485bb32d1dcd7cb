package unionfs

import (
	"errors"
	"fmt"

	"github.com/varvefs/varve/internal/index"
)

// BuildIndex merges lowers, top first, and writes their index to file, for
// Options.Index: whole, and in the place of what was there, or not at all. It is not
// durable: what a power failure leaves of it is an [ErrIndex].
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
	return index.Build(file, layersOf(lowers))
}

// ExtendIndex is [BuildIndex], but takes what is below the top layer from the file
// base, the index of lowers[1:], if that can be used: it then reads the directories of
// the top layer only.
func ExtendIndex(file, base string, lowers []Lower) error {
	if err := indexable(lowers); err != nil {
		return err
	}
	err := index.Extend(file, base, layersOf(lowers))
	if errors.Is(err, index.ErrNoBase) {
		return BuildIndex(file, lowers)
	}
	return err
}

func layersOf(lowers []Lower) []index.Layer {
	layers := make([]index.Layer, len(lowers))
	for i, l := range lowers {
		layers[i] = index.Layer{Path: l.Path, ID: l.ID}
	}
	return layers
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
