package engine

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/layerdb"
)

// Save writes images, each found by any of its names, with every layer to w, as
// an archive that docker, podman and skopeo read. An image that was asked for by
// name and tag is saved under that name, one asked for by ID under none. It has
// to run [Inside].
func (e *Engine) Save(w io.Writer, names []string) error {
	var images []archive.SaveImage
	err := e.store.View(func(tx *layerdb.Tx) error {
		for _, name := range names {
			if err := addSaved(tx, &images, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	held, err := e.holdSaved(images)
	if err != nil {
		return err
	}
	defer held.Release()
	if err := archive.Save(w, e.store, images); err != nil {
		return err
	}
	for _, image := range images {
		name := ""
		if len(image.Refs) > 0 {
			name = layerdb.Familiar(image.Refs[0])
		}
		e.noteImage(digest.FromBytes(image.Config).String(), "save", name)
	}
	return nil
}

// holdSaved keeps the layers of the images where they are while they are read, also
// if the last image that has them is removed meanwhile. One that was removed since
// it was found is said to be no such image.
func (e *Engine) holdSaved(images []archive.SaveImage) (*layerdb.Held, error) {
	var ids []digest.Digest
	for _, image := range images {
		for _, l := range image.Layers {
			ids = append(ids, l.DiffID)
		}
	}
	held, err := e.store.Hold(ids...)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if _, ok := held.Size(id); !ok {
			held.Release()
			return nil, fmt.Errorf("%w any more: it was removed while it was to be saved", layerdb.ErrNoSuchImage)
		}
	}
	return held, nil
}

// addSaved adds the image that name means, or its name to one that is there.
func addSaved(tx *layerdb.Tx, images *[]archive.SaveImage, name string) error {
	found, err := lookImage(tx, name)
	if err != nil {
		return err
	}
	refuse := fmt.Errorf("the image %s stands on this machine's own files, which are no layer that could be packed; "+
		"'varve export' writes all that a container of it sees to a tar", name)
	if found.host != nil {
		return refuse
	}
	chain, err := tx.Chain(found.Top)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(chain, func(l layerdb.Layer) bool { return l.Host }) {
		return refuse
	}
	saved := archive.SaveImage{Config: found.Config}
	for _, l := range slices.Backward(chain) {
		if !l.Empty {
			saved.Layers = append(saved.Layers, l)
		}
	}
	if saved.Refs, err = savedRefs(tx, name, found.ID); err != nil {
		return err
	}
	for i, other := range *images {
		if string(other.Config) == string(saved.Config) {
			(*images)[i].Refs = append(other.Refs, saved.Refs...)
			return nil
		}
	}
	*images = append(*images, saved)
	return nil
}

// savedRefs is the name itself, if it is one and not an ID.
func savedRefs(tx *layerdb.Tx, name, id string) ([]string, error) {
	ref, err := layerdb.ParseRef(name)
	if err != nil {
		return nil, nil //nolint:nilerr // an ID, since it was found
	}
	switch tagged, err := tx.Tag(ref); {
	case errors.Is(err, layerdb.ErrNoSuchImage):
		return nil, nil
	case err != nil || tagged != id:
		return nil, err
	}
	return []string{ref}, nil
}
