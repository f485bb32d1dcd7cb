package layerdb

import (
	"errors"
	"fmt"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// FindImage finds an image by name and tag (latest if there is none), by name and
// digest, by ID, or by the beginning of an ID that no other image shares. It fails with
// ErrNoSuchImage or ErrAmbiguous.
func (tx *Tx) FindImage(name string) (Image, error) {
	if id, err := tx.findTag(name); err != nil || id != "" {
		if err != nil {
			return Image{}, err
		}
		return tx.Image(id)
	}
	id, err := tx.byPrefix(imageKey, strings.TrimPrefix(name, "sha256:"), nil)
	if err != nil {
		return Image{}, err
	}
	if id == "" {
		return Image{}, fmt.Errorf("%w: %s", ErrNoSuchImage, name)
	}
	return tx.Image(id)
}

// findTag returns the ID that the name has as a tag, or with its digest, or "". What
// is not a name may still be an ID.
func (tx *Tx) findTag(name string) (string, error) {
	if repository, d, err := ParseDigestRef(name); err == nil {
		raw, err := tx.get(digestKey + repository + "@" + d.String())
		return string(raw), err
	}
	ref, err := ParseRef(name)
	if err != nil {
		return "", nil //nolint:nilerr // 64 hex digits, for one, are no name
	}
	raw, err := tx.get(tagKey + ref)
	return string(raw), err
}

// FindContainer finds a container by full ID, exact name, or the beginning of an
// ID that no other container shares. It fails with ErrNoSuchContainer or
// ErrAmbiguous.
func (tx *Tx) FindContainer(name string) (Container, error) {
	c, err := tx.Container(name)
	if !errors.Is(err, ErrNoSuchContainer) {
		return c, err
	}
	id, err := tx.get(nameKey + strings.TrimPrefix(name, "/"))
	if err != nil {
		return Container{}, err
	}
	if id != nil {
		if c, err := tx.Container(string(id)); !errors.Is(err, ErrNoSuchContainer) {
			return c, err
		}
	}
	alive := func(id string) (bool, error) { return exists(tx.store.ContainerDir(id)) }
	found, err := tx.byPrefix(containerKey, name, alive)
	if err != nil {
		return Container{}, err
	}
	if found == "" {
		return Container{}, fmt.Errorf("%w: %s", ErrNoSuchContainer, name)
	}
	return tx.Container(found)
}

// byPrefix returns the one ID in a key space that begins with prefix and that
// keep (if not nil) accepts, "" if there is none, ErrAmbiguous if several.
func (tx *Tx) byPrefix(space, prefix string, keep func(string) (bool, error)) (string, error) {
	if prefix == "" || strings.Trim(prefix, "0123456789abcdef") != "" {
		return "", nil
	}
	opt := badger.DefaultIteratorOptions
	opt.PrefetchValues = false
	opt.Prefix = []byte(space + prefix)
	it := tx.txn.NewIterator(opt)
	defer it.Close()
	found := ""
	for it.Rewind(); it.Valid(); it.Next() {
		id := string(it.Item().Key()[len(space):])
		if keep != nil {
			ok, err := keep(id)
			if err != nil {
				return "", err
			}
			if !ok {
				continue
			}
		}
		if found != "" {
			return "", fmt.Errorf("%w: %s", ErrAmbiguous, prefix)
		}
		found = id
	}
	return found, nil
}
