package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/layerdb"
	"github.com/varvefs/varve/unionfs"
)

// CommitOptions are what `varve commit` asks for. The zero value works.
type CommitOptions struct {
	Ref     string   // the new image's name, "" for none
	Message string   // what was done
	Author  string   // who did it
	Changes []string // Dockerfile instructions for the configuration
}

// Commit makes a layer of what a container has changed, over the layer that the
// container stands on, and an image with it on top. It returns the image's ID.
// Only the upper is read, never the view, and what it has in common with the layers
// below is left out. It has to run [Inside].
func (e *Engine) Commit(name string, opt CommitOptions) (string, error) {
	ref, err := optionalTag(opt.Ref)
	if err != nil {
		return "", err
	}
	c, parent, config, err := e.base(name)
	if err != nil {
		return "", err
	}
	spec, err := e.readSpec(c.ID)
	if err != nil {
		return "", err
	}
	config.Config = spec.Config
	if err := applyChanges(&config.Config, opt.Changes); err != nil {
		return "", err
	}
	stage, diff, err := e.pack(c, spec)
	if err != nil {
		return "", fmt.Errorf("commit %s: %w", name, err)
	}
	layer := layerdb.Layer{
		DiffID: diff.DiffID, Created: time.Now(), CreatedBy: strings.Join(c.Command, " "),
		Author: opt.Author, Comment: opt.Message, Size: diff.Size,
	}
	id, err := e.addImage(stage, layer, config, &parent, spec.Layers, ref)
	return id, errors.Join(err, stage.Discard())
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

// pack copies the upper of a container into a new stage, without what the layers
// below have already. The stage is the caller's to discard if there is no error.
func (e *Engine) pack(c layerdb.Container, spec Spec) (*layerdb.Stage, archive.Unpacked, error) {
	if err := e.Sweep(); err != nil {
		return nil, archive.Unpacked{}, err
	}
	stage, err := e.store.Stage("commit")
	if err != nil {
		return nil, archive.Unpacked{}, err
	}
	diff, err := e.packUpper(c, spec, stage.Path())
	if err != nil {
		return nil, diff, errors.Join(err, stage.Discard())
	}
	return stage, diff, nil
}

func (e *Engine) packUpper(c layerdb.Container, spec Spec, dir string) (archive.Unpacked, error) {
	upper := filepath.Join(e.store.ContainerDir(c.ID), upperName)
	if slices.Contains(spec.Layers, hostLayer) { // what is below may change, so all is kept
		return archive.PackUpper(upper, dir, archive.PackOptions{})
	}
	chain, err := e.chain(spec.Layers)
	if err != nil {
		return archive.Unpacked{}, err
	}
	tree, err := unionfs.OpenTree(chain.lowers)
	if err != nil {
		return archive.Unpacked{}, err
	}
	defer tree.Close()
	ids, err := idsOf(spec)
	if err != nil {
		return archive.Unpacked{}, err
	}
	ids.overflow = false // a file of nobody's is not root's
	return archive.PackUpper(upper, dir, archive.PackOptions{Below: func(path string) (archive.File, bool, error) {
		entry, err := tree.Lookup(path)
		if errors.Is(err, fs.ErrNotExist) {
			return archive.File{}, false, nil
		}
		if err != nil {
			return archive.File{}, false, err
		}
		file, err := treeFile(entry, ids)
		return file, true, err
	}})
}
