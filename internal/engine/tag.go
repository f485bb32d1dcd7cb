package engine

import "github.com/varvefs/varve/layerdb"

// Tag gives an image, found by any of its names, one more name. What had the name
// before loses it.
func (e *Engine) Tag(source, target string) error {
	ref, err := layerdb.ParseRef(target)
	if err == nil {
		err = checkTag(ref)
	}
	if err != nil {
		return err
	}
	var image layerdb.Image
	err = e.update(func(tx *layerdb.Tx) (err error) {
		if image, err = findImage(tx, source); err != nil {
			return err
		}
		return tx.SetTag(ref, image.ID)
	})
	if err == nil {
		e.noteImage("sha256:"+image.ID, "tag", layerdb.Familiar(ref))
	}
	return err
}

// Familiar returns a full reference as people write it: "mine:1" for
// "docker.io/library/mine:1".
func Familiar(ref string) string { return layerdb.Familiar(ref) }
