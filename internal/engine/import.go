package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/layerdb"
)

// ImportOptions are what `varve import` asks for. The zero value works.
type ImportOptions struct {
	Ref     string   // the new image's name, "" for none
	Message string   // "" says where it came from
	Changes []string // Dockerfile instructions for the configuration
}

// Import makes an image of one layer from a tar, or a compressed one, and
// returns its ID. file is its path, "-" for stdin, or an http or https URL. It has
// to run [Inside].
func (e *Engine) Import(file string, opt ImportOptions) (string, error) {
	ref, err := optionalTag(opt.Ref)
	if err != nil {
		return "", err
	}
	config := container.Config{ImageConfig: v1.ImageConfig{Env: []string{defaultPath}}}
	if err := applyChanges(&config, opt.Changes); err != nil {
		return "", err
	}
	input, err := openInput(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = input.Close() }() // only read
	stage, diff, err := e.unpack(input)
	if err != nil {
		return "", fmt.Errorf("import %s: %w", shownInput(file), err)
	}
	if opt.Message == "" {
		opt.Message = "Imported from " + shownInput(file)
	}
	layer := layerdb.Layer{DiffID: diff.DiffID, Created: time.Now(), Comment: opt.Message, Size: diff.Size}
	base := configOf(nil)
	base.Config = config
	id, err := e.addImage(stage, layer, base, nil, nil, ref)
	if err == nil {
		e.noteImage("sha256:"+id, "import", opt.Ref)
	}
	return id, errors.Join(err, stage.Discard())
}

// unpack reads a layer into a new stage. The stage is the caller's to discard if
// there is no error.
func (e *Engine) unpack(r io.Reader) (*layout.Stage, archive.Unpacked, error) {
	if err := e.Sweep(); err != nil {
		return nil, archive.Unpacked{}, err
	}
	stage, err := e.store.Stage("import")
	if err != nil {
		return nil, archive.Unpacked{}, err
	}
	diff, err := archive.Unpack(r, stage.Path(), archive.UnpackOptions{})
	if err != nil {
		return nil, diff, errors.Join(err, stage.Discard())
	}
	return stage, diff, nil
}

// optionalTag reads the name of a new image into a full reference, "" if it is
// to have none.
func optionalTag(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	ref, err := layerdb.ParseRef(name)
	if err != nil {
		return "", err
	}
	return ref, checkTag(ref)
}

// addImage makes a staged layer durable and publishes it over the layer parent (nil: it is
// the lowest), whose chain is below, by the names of its layers, top first. It records the
// layer and the image of config with it on top, under ref unless that is "", and makes the
// index of the chain. It returns the image's ID.
func (e *Engine) addImage(stage *layout.Stage, layer layerdb.Layer, config imageConfig, parent *layerdb.Layer, below []string, ref string) (string, error) {
	layer.ChainID = layer.DiffID
	if parent != nil {
		layer.Parent, layer.ChainID = parent.ID, layout.ChainID(parent.ChainID, layer.DiffID)
	}
	if err := layer.Seal(); err != nil {
		return "", err
	}
	image, err := newImage(layer, config)
	if err != nil {
		return "", err
	}
	names := append([]string{layer.DiffID.String()}, below...)
	index := e.beginIndexing([][]string{names}, map[digest.Digest]string{layer.DiffID: layout.DiffDir(stage.Path())})
	err = archive.SyncLayer(stage)
	if err == nil {
		err = e.update(func(tx *layerdb.Tx) error {
			err := tx.Publish(stage, e.store.LayerDir(layer.DiffID))
			if err == nil {
				err = errors.Join(tx.PutLayer(layer), tx.PutImage(image))
			}
			if err == nil && ref != "" {
				err = tx.SetTag(ref, image.ID)
			}
			return err
		})
	}
	if err != nil {
		return "", errors.Join(err, index.drop())
	}
	_ = index.keep() // the image is there, also without: its first container would have it made
	return image.ID, nil
}

// configOf is the configuration of an image that is known by its chain (top
// first) only.
func configOf(chain []layerdb.Layer) imageConfig {
	config := imageConfig{Image: v1.Image{
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		RootFS:   v1.RootFS{Type: "layers"},
	}}
	for _, l := range slices.Backward(chain) {
		config.History = append(config.History, historyOf(l))
		if !l.Host && !l.Empty {
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
		}
	}
	return config
}

// historyOf is a layer's line in the history of an image.
func historyOf(l layerdb.Layer) v1.History {
	created := l.Created
	return v1.History{Created: &created, CreatedBy: l.CreatedBy, Author: l.Author, Comment: l.Comment, EmptyLayer: l.Host || l.Empty}
}

// newImage adds the layer to the configuration and makes an image of it.
func newImage(layer layerdb.Layer, config imageConfig) (layerdb.Image, error) {
	created := layer.Created
	config.Created, config.Author = &created, layer.Author
	config.RootFS.DiffIDs = append(append([]digest.Digest{}, config.RootFS.DiffIDs...), layer.DiffID)
	config.History = append(append([]v1.History{}, config.History...), historyOf(layer))
	raw, err := json.Marshal(config)
	if err != nil {
		return layerdb.Image{}, fmt.Errorf("write the image's configuration: %w", err)
	}
	image := layerdb.Image{Top: layer.ID, Config: raw, Created: created}
	image.Seal()
	return image, nil
}
