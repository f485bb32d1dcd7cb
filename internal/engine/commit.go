package engine

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/varvefs/varve/layerdb"
)

// CommitOptions are what `varve commit` asks for. The zero value works.
type CommitOptions struct {
	Ref     string   // the new image's name, "" for none
	Message string   // what was done
	Author  string   // who did it
	Changes []string // Dockerfile instructions for the configuration
	// NoPause lets the programs of a running container go on while its upper is copied: what
	// they write meanwhile may be in the image, or not, or in part.
	NoPause bool
}

// Commit makes a layer of what a container has changed, over the layer that the
// container stands on, and an image with it on top. It returns the image's ID.
// Only the upper is read, never the view, and what it has in common with the layers
// below is left out. The programs of a running container are stopped for a moment. The
// warning, if not nil, says that they could notice it. It has to run [Inside].
func (e *Engine) Commit(name string, opt CommitOptions) (id string, warning, err error) {
	ref, err := optionalTag(opt.Ref)
	if err != nil {
		return "", nil, err
	}
	c, parent, config, err := e.base(name)
	if err != nil {
		return "", nil, err
	}
	spec, err := e.ReadSpec(c.ID)
	if err != nil {
		return "", nil, err
	}
	config.Config = spec.Config
	if err := applyChanges(&config.Config, opt.Changes); err != nil {
		return "", nil, err
	}
	p := packing{engine: e, spec: spec, noPause: opt.NoPause}
	stage, diff, err := p.pack()
	if err != nil {
		return "", nil, fmt.Errorf("commit %s: %w", name, err)
	}
	layer := layerdb.Layer{
		DiffID: diff.DiffID, Created: time.Now(), CreatedBy: strings.Join(c.Command, " "),
		Author: opt.Author, Comment: opt.Message, Size: diff.Size,
	}
	id, err = e.addImage(stage, layer, config, &parent, spec.Layers, ref)
	if err == nil {
		e.NoteContainer(c.ID, "commit", map[string]string{"comment": opt.Message, "imageID": "sha256:" + id, "imageRef": ref})
	}
	return id, p.warning, errors.Join(err, stage.Discard())
}

// base is a container and what it stands on: its top layer and the configuration of
// its image. An image that was removed since (rmi -f) leaves the layers, and its
// configuration is made again from them. It is one transaction: to open the database
// costs a short commit more than all it reads.
func (e *Engine) base(name string) (c layerdb.Container, top layerdb.Layer, config imageConfig, err error) {
	err = e.store.View(func(tx *layerdb.Tx) error {
		if c, err = tx.FindContainer(name); err != nil {
			return err
		}
		chain, err := tx.Chain(c.Top)
		if err != nil {
			return err
		}
		if len(chain) == 0 {
			return fmt.Errorf("container %s stands on nothing", c.ID)
		}
		top = chain[0]
		image, err := tx.Image(c.ImageID)
		if errors.Is(err, layerdb.ErrNoSuchImage) {
			config = configOf(chain)
			return nil
		}
		if err == nil {
			config, err = parseConfig(image)
		}
		return err
	})
	return c, top, config, err
}
