package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/layerdb"
)

// Loaded is an image that came in from an archive.
type Loaded struct {
	ID   string
	Refs []string // its names in the archive, in full
	// Replaced are the images that lost a name to it: the name in full, to the
	// image's ID.
	Replaced map[string]string
}

// Load brings in all images of an archive, as docker save, podman save, skopeo and
// umoci write it. file is its path, "" for stdin. progress, which may be nil, is told of
// each layer; its layers are unpacked side by side. Nothing is seen of an
// image before all of it is here; of very many images, which take several transactions,
// a disk that fills may leave the first ones. It has to run [Inside].
func (e *Engine) Load(file string, progress Progress) (list []Loaded, err error) {
	if err := e.Sweep(); err != nil {
		return nil, err
	}
	input := os.Stdin
	if file != "" {
		if input, err = os.Open(file); err != nil {
			return nil, err
		}
		defer func() { _ = input.Close() }() // only read
	}
	images, err := archive.OpenImages(input, e.store)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	defer func() { err = errors.Join(err, images.Close()) }()
	return e.load(images, progress)
}

func (e *Engine) load(images *archive.Images, progress Progress) (list []Loaded, err error) {
	in := archive.NewIntake(e.store, archive.UnpackOptions{})
	defer func() { err = errors.Join(err, in.Close()) }()
	var wanted []Incoming
	var layers []archive.LoadLayer
	for _, image := range images.List() {
		for _, ref := range image.Refs {
			if err := checkTag(ref); err != nil {
				return nil, err
			}
		}
		layers = append(layers, image.Layers...)
		wanted = append(wanted, Incoming{Config: image.Config, Refs: image.Refs})
	}
	if err := takeLayers(in, images, layers, progress); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	list, err = e.putImages(in, wanted)
	for _, image := range list {
		name := ""
		if len(image.Refs) > 0 {
			name = layerdb.Familiar(image.Refs[0])
		}
		e.noteImage("sha256:"+image.ID, "load", name)
	}
	return list, err
}

// takeLayers unpacks those layers that are not here, side by side.
func takeLayers(in *archive.Intake, images *archive.Images, layers []archive.LoadLayer, progress Progress) error {
	if progress == nil {
		progress = func(Step) {}
	}
	var ids []digest.Digest
	for _, l := range layers {
		ids = append(ids, l.DiffID)
	}
	missing, err := in.Missing(ids)
	if err != nil {
		return err
	}
	needed := map[digest.Digest]bool{}
	for _, id := range missing {
		needed[id] = true
	}
	var wanted []archive.LoadLayer
	for _, l := range layers {
		if !needed[l.DiffID] {
			continue
		}
		delete(needed, l.DiffID) // the same layer may come again
		wanted = append(wanted, l)
		progress(Step{Layer: l.DiffID, What: "Waiting"})
	}
	return sideBySide(context.Background(), wanted, func(ctx context.Context, l archive.LoadLayer) error {
		step := Step{Layer: l.DiffID, What: "Loading layer", Total: l.Length()}
		err := in.Take(&counter{r: images.Open(l), ctx: ctx, step: step, tell: progress}, l.Blob)
		if err == nil {
			progress(Step{Layer: l.DiffID, What: "Load complete"})
		}
		return err
	})
}

// Incoming is an image whose layers an intake has, before it is recorded.
type Incoming struct {
	Config []byte   // the exact bytes
	Refs   []string // full references
}

// maxBatch bounds the bytes of images that one transaction records; the store
// allows 600 KiB, and a config grows by a half on its way.
const maxBatch = 200 << 10

// putImages records images whose layers were all taken, and makes the indexes of
// their chains. Images that are too many for one transaction follow in others:
// what could fail, but for a full disk, has been done before.
func (e *Engine) putImages(in *archive.Intake, wanted []Incoming) ([]Loaded, error) {
	index, err := e.indexIncoming(in, wanted)
	if err != nil {
		return nil, err
	}
	list, err := e.putAll(in, wanted)
	if err != nil && len(list) == 0 {
		return nil, errors.Join(err, index.drop())
	}
	_ = index.keep() // the images are there, also without: their first containers would have it made
	return list, err
}

// indexIncoming begins to make the indexes of images before they are recorded.
func (e *Engine) indexIncoming(in *archive.Intake, wanted []Incoming) (*indexing, error) {
	var chains [][]string
	for _, image := range wanted {
		config, err := archive.ParseConfig(image.Config)
		if err != nil {
			return nil, err
		}
		chains = append(chains, chainNames(config.RootFS.DiffIDs))
	}
	return e.beginIndexing(chains, in.Staged()), nil
}

// chainNames are the names of layers, given lowest first as in a configuration, as a
// [Spec] keeps them.
func chainNames(diffIDs []digest.Digest) []string {
	var names []string
	for _, id := range slices.Backward(diffIDs) {
		names = append(names, id.String())
	}
	return names
}

// putAll makes the layers durable and records the images.
func (e *Engine) putAll(in *archive.Intake, wanted []Incoming) ([]Loaded, error) {
	if err := in.Sync(); err != nil {
		return nil, err
	}
	var list []Loaded
	for len(wanted) > 0 {
		n, err := batch(wanted)
		if err != nil {
			return list, err
		}
		done, err := e.putBatch(in, wanted[:n])
		if err != nil {
			return list, err
		}
		list, wanted = append(list, done...), wanted[n:]
	}
	return list, nil
}

// batch is how many of the images one transaction can record, one at least.
func batch(wanted []Incoming) (int, error) {
	size := 0
	for n, image := range wanted {
		config, err := archive.ParseConfig(image.Config)
		if err != nil {
			return 0, err
		}
		// A record of a layer repeats its line of the config, with some digests.
		size += 2*len(image.Config) + 300*(len(config.History)+len(config.RootFS.DiffIDs))
		if size > maxBatch && n > 0 {
			return n, nil
		}
	}
	return len(wanted), nil
}

func (e *Engine) putBatch(in *archive.Intake, wanted []Incoming) ([]Loaded, error) {
	var list []Loaded
	err := e.update(func(tx *layerdb.Tx) error {
		for _, image := range wanted {
			done, err := putImage(tx, in, image)
			if err != nil {
				return err
			}
			list = append(list, done)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// putImage records one image.
func putImage(tx *layerdb.Tx, in *archive.Intake, wanted Incoming) (Loaded, error) {
	done := Loaded{Refs: wanted.Refs, Replaced: map[string]string{}}
	for _, ref := range wanted.Refs {
		old, err := tx.Tag(ref)
		if err != nil && !errors.Is(err, layerdb.ErrNoSuchImage) {
			return done, err
		}
		if old != "" {
			done.Replaced[ref] = old
		}
	}
	image, err := in.Put(tx, wanted.Config, wanted.Refs...)
	if err != nil {
		return done, err
	}
	done.ID = image.ID
	for ref, old := range done.Replaced {
		if old == image.ID {
			delete(done.Replaced, ref)
		}
	}
	return done, nil
}
