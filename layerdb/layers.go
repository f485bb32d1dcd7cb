package layerdb

import (
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// PutLayer records a sealed layer. Its directory must have been published
// (ErrNoBytes) and its parent recorded (ErrNoSuchLayer). Putting a layer that is
// there already is no error.
func (tx *Tx) PutLayer(l Layer) error {
	if l.ID == "" {
		return fmt.Errorf("put layer: it was not sealed")
	}
	if l.Parent != "" {
		if _, err := tx.Layer(l.Parent); err != nil {
			return fmt.Errorf("put layer: parent: %w", err)
		}
	}
	if l.hasBytes() {
		ok, err := exists(tx.store.LayerDir(l.DiffID))
		if err != nil {
			return fmt.Errorf("put layer %s: %w", l.DiffID, err)
		}
		if !ok {
			return fmt.Errorf("put layer %s: %w", l.DiffID, ErrNoBytes)
		}
	}
	return putJSON(tx, layerKey+l.ID, &l)
}

// Layer returns the layer with this full ID, or ErrNoSuchLayer.
func (tx *Tx) Layer(id string) (Layer, error) {
	l, ok, err := getJSON[Layer](tx, layerKey+id)
	if err == nil && !ok {
		err = fmt.Errorf("%w: %s", ErrNoSuchLayer, id)
	}
	l.ID = id
	return l, err
}

// Layers returns all layers in the order of their IDs.
func (tx *Tx) Layers() ([]Layer, error) {
	return listJSON(tx, layerKey, func(l *Layer, id string) { l.ID = id })
}

// Chain returns the layer top and its ancestors, top first. Each record names an
// older one by its digest, so there are no circles.
func (tx *Tx) Chain(top string) ([]Layer, error) {
	var chain []Layer
	for id := top; id != ""; {
		l, err := tx.Layer(id)
		if err != nil {
			return nil, err
		}
		chain = append(chain, l)
		id = l.Parent
	}
	return chain, nil
}

// DeleteLayer forgets the record. [Tx.Collect] knows which may go.
func (tx *Tx) DeleteLayer(id string) error { return tx.remove(layerKey + id) }

// Collect forgets the layers that no image and no container reaches any more. It
// returns them in the order of their IDs, with the diff IDs that no record names
// any more: their directories are removed after the transaction, and so are the
// indexes of chains that no image and no container stands on.
func (tx *Tx) Collect() (dropped []Layer, goneDiffs []digest.Digest, err error) {
	tops, err := tx.tops()
	if err != nil {
		return nil, nil, err
	}
	if err := tx.dropChains(tops); err != nil {
		return nil, nil, err
	}
	reached, err := tx.reached(tops)
	if err != nil {
		return nil, nil, err
	}
	layers, err := tx.Layers()
	if err != nil {
		return nil, nil, err
	}
	used := map[digest.Digest]bool{}
	for _, l := range layers {
		if reached[l.ID] {
			used[l.DiffID] = true
			continue
		}
		dropped = append(dropped, l)
		if err := tx.DeleteLayer(l.ID); err != nil {
			return nil, nil, err
		}
	}
	for _, l := range dropped {
		if l.hasBytes() && !used[l.DiffID] && !slices.Contains(goneDiffs, l.DiffID) {
			goneDiffs = append(goneDiffs, l.DiffID)
			tx.trash = append(tx.trash, tx.store.LayerDir(l.DiffID))
			if err := tx.remove(originKey + l.DiffID.String()); err != nil {
				return nil, nil, err
			}
		}
	}
	return dropped, goneDiffs, nil
}

// tops are the layers that images and containers stand on.
func (tx *Tx) tops() ([]string, error) {
	images, err := tx.Images()
	if err != nil {
		return nil, err
	}
	containers, err := tx.Containers()
	if err != nil {
		return nil, err
	}
	var tops []string
	for _, i := range images {
		tops = append(tops, i.Top)
	}
	for _, c := range containers {
		tops = append(tops, c.Top)
	}
	return tops, nil
}

// reached is the set of the layers tops and their ancestors.
func (tx *Tx) reached(tops []string) (map[string]bool, error) {
	reached := map[string]bool{}
	for _, id := range tops {
		for id != "" && !reached[id] {
			l, err := tx.Layer(id)
			if err != nil {
				return nil, err
			}
			reached[id] = true
			id = l.Parent
		}
	}
	return reached, nil
}
