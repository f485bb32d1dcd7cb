package layerdb

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// maxOrigins bounds what is remembered of a layer: a base image is in many
// repositories, and the latest are enough to find it again.
const maxOrigins = 4

// An Origin is where a layer is known to be in a registry, and in what form: the
// digest and the size are those of its compressed bytes. They can not be told from
// the layer, which is kept uncompressed.
type Origin struct {
	Repository string        `json:"repository"` // in full, without a tag
	MediaType  string        `json:"media_type"`
	Digest     digest.Digest `json:"digest"`
	Size       int64         `json:"size"`
}

// Origins returns where the layer with this diff ID is known to be, the latest first.
func (tx *Tx) Origins(diffID digest.Digest) ([]Origin, error) {
	list, _, err := getJSON[[]Origin](tx, originKey+diffID.String())
	return list, err
}

// AddOrigin notes where a layer is, if it is in the store. What is known of it is
// forgotten with the layer ([Tx.Collect]).
func (tx *Tx) AddOrigin(diffID digest.Digest, o Origin) error {
	if ok, err := exists(tx.store.LayerDir(diffID)); err != nil || !ok {
		return err
	}
	list, err := tx.Origins(diffID)
	if err != nil || len(list) > 0 && list[0] == o {
		return err
	}
	list = slices.DeleteFunc(list, func(old Origin) bool { return old == o })
	list = slices.Insert(list, 0, o)
	return putJSON(tx, originKey+diffID.String(), list[:min(len(list), maxOrigins)])
}

// allOrigins returns the origins of all layers by their diff IDs.
func (tx *Tx) allOrigins() (map[string][]Origin, error) {
	all := map[string][]Origin{}
	err := tx.each(originKey, func(diffID string, raw []byte) error {
		var list []Origin
		if err := json.Unmarshal(raw, &list); err != nil {
			return fmt.Errorf("read %s%s: %w", originKey, diffID, err)
		}
		all[diffID] = list
		return nil
	})
	return all, err
}
