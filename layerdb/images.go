package layerdb

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

// PutImage records a sealed image. Its top layer must be recorded.
func (tx *Tx) PutImage(i Image) error {
	if i.ID == "" {
		return fmt.Errorf("put image: it was not sealed")
	}
	if i.Top != "" {
		if _, err := tx.Layer(i.Top); err != nil {
			return fmt.Errorf("put image: %w", err)
		}
	}
	tx.touch(i.ID)
	return putJSON(tx, imageKey+i.ID, &i)
}

// Image returns the image with this full ID, or ErrNoSuchImage.
func (tx *Tx) Image(id string) (Image, error) {
	i, ok, err := getJSON[Image](tx, imageKey+id)
	if err == nil && !ok {
		err = fmt.Errorf("%w: %s", ErrNoSuchImage, id)
	}
	i.ID = id
	return i, err
}

// Images returns all images in the order of their IDs.
func (tx *Tx) Images() ([]Image, error) {
	return listJSON(tx, imageKey, func(i *Image, id string) { i.ID = id })
}

// DeleteImage forgets the image and every tag and digest that names it.
func (tx *Tx) DeleteImage(id string) error {
	tx.touch(id)
	for _, space := range []string{tagKey, digestKey} {
		names, err := tx.names(space)
		if err != nil {
			return err
		}
		for name, image := range names {
			if image == id {
				if err := tx.remove(space + name); err != nil {
					return err
				}
			}
		}
	}
	return tx.remove(imageKey + id)
}

// Tag returns the ID of the image that ref names. ref is a full reference, as
// [ParseRef] gives it.
func (tx *Tx) Tag(ref string) (string, error) {
	raw, err := tx.get(tagKey + ref)
	if err == nil && raw == nil {
		err = fmt.Errorf("%w: %s", ErrNoSuchImage, Familiar(ref))
	}
	return string(raw), err
}

// SetTag makes the full reference ref a name of the image; it may have been the
// name of another.
func (tx *Tx) SetTag(ref, imageID string) error {
	if _, err := tx.Image(imageID); err != nil {
		return fmt.Errorf("tag %s: %w", Familiar(ref), err)
	}
	if err := tx.touchTagged(ref); err != nil {
		return err
	}
	tx.touch(imageID)
	return tx.set(tagKey+ref, []byte(imageID))
}

// DeleteTag forgets the full reference ref.
func (tx *Tx) DeleteTag(ref string) error {
	if err := tx.touchTagged(ref); err != nil {
		return err
	}
	return tx.remove(tagKey + ref)
}

// touchTagged touches the image that has the name now, if there is one.
func (tx *Tx) touchTagged(ref string) error {
	id, err := tx.get(tagKey + ref)
	if id != nil {
		tx.touch(string(id))
	}
	return err
}

// Tags returns the image ID of every full reference.
func (tx *Tx) Tags() (map[string]string, error) { return tx.names(tagKey) }

// SetDigest notes that in a registry the digest stands for the image in the
// repository, which is in full and without a tag.
func (tx *Tx) SetDigest(repository string, d digest.Digest, imageID string) error {
	if _, err := tx.Image(imageID); err != nil {
		return fmt.Errorf("note the digest %s: %w", d, err)
	}
	tx.touch(imageID)
	return tx.set(digestKey+repository+"@"+d.String(), []byte(imageID))
}

// Digests returns the image ID of every REPOSITORY@DIGEST.
func (tx *Tx) Digests() (map[string]string, error) { return tx.names(digestKey) }

// names reads a key space that holds IDs.
func (tx *Tx) names(space string) (map[string]string, error) {
	names := map[string]string{}
	err := tx.each(space, func(name string, id []byte) error {
		names[name] = string(id)
		return nil
	})
	return names, err
}
