package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/varvefs/varve/layerdb"
)

// hostRef is the full reference of the image that always exists: its one layer
// is the file system of this machine.
const hostRef = "docker.io/library/host:latest"

// hostImage returns the image "host" and its layer. They say nothing about the
// machine, so they are the same ones always, stored or not.
func hostImage() (layerdb.Layer, layerdb.Image, error) {
	layer, err := layerdb.HostLayer()
	if err != nil {
		return layerdb.Layer{}, layerdb.Image{}, err
	}
	raw, err := json.Marshal(v1.Image{
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   v1.ImageConfig{Env: []string{defaultPath}, Cmd: []string{"/bin/sh"}},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
		History:  []v1.History{{CreatedBy: layer.CreatedBy, EmptyLayer: true}},
	})
	if err != nil {
		return layerdb.Layer{}, layerdb.Image{}, fmt.Errorf("make the image host: %w", err)
	}
	image := layerdb.Image{Top: layer.ID, Config: raw}
	image.Seal()
	return layer, image, nil
}

// findImage finds an image by any of its names; the image "host" is stored when
// it is first asked for here.
func findImage(tx *layerdb.Tx, name string) (layerdb.Image, error) {
	found, err := tx.FindImage(name)
	if !errors.Is(err, layerdb.ErrNoSuchImage) || !isHost(name) {
		return found, err
	}
	layer, image, err := hostImage()
	if err != nil {
		return layerdb.Image{}, err
	}
	err = errors.Join(tx.PutLayer(layer), tx.PutImage(image))
	if err == nil {
		err = tx.SetTag(hostRef, image.ID)
	}
	return image, err
}

// isHost tells whether name means the image "host".
func isHost(name string) bool {
	ref, err := layerdb.ParseRef(name)
	return err == nil && ref == hostRef
}

// checkTag refuses a name that is kept for the image "host".
func checkTag(ref string) error {
	if ref == hostRef {
		return errors.New("the name host:latest is kept for this machine's own files; choose another")
	}
	return nil
}

// lookedImage is an image that was looked up without a change of the store. host
// is the layer of the image "host" if that is not stored yet.
type lookedImage struct {
	layerdb.Image
	host *layerdb.Layer
}

// lookImage finds an image by any of its names, for those who only read.
func lookImage(tx *layerdb.Tx, name string) (lookedImage, error) {
	found, err := tx.FindImage(name)
	if !errors.Is(err, layerdb.ErrNoSuchImage) || !isHost(name) {
		return lookedImage{Image: found}, err
	}
	layer, image, err := hostImage()
	return lookedImage{image, &layer}, err
}

func isFile(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}
