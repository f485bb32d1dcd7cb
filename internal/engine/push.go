package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/internal/registry"
	"github.com/varvefs/varve/layerdb"
)

// PushOptions are what `varve push` asks for. The zero value works.
type PushOptions struct {
	AllTags  bool     // of the repository; then the name must not have one
	Insecure bool     // any certificate will do, and plain HTTP
	Progress Progress // nil for nobody
}

// Push brings an image, or all images of a repository, to the registry that the name
// says, and returns the full references under which they are there. Layers that the
// registry has are not sent; it takes them from other repositories where it can. The
// others are compressed anew, always into the same bytes. It has to run [Inside].
func (e *Engine) Push(ctx context.Context, name string, opt PushOptions) (refs []string, err error) {
	repository, list, err := e.pushed(name, opt.AllTags)
	if err != nil {
		return nil, err
	}
	if err := e.Sweep(); err != nil {
		return nil, err
	}
	p := &pusher{engine: e, progress: opt.Progress, forms: map[digest.Digest]v1.Descriptor{}}
	if p.progress == nil {
		p.progress = func(Step) {}
	}
	if err := p.open(ctx, repository, list, opt.Insecure); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	for _, image := range list {
		for _, ref := range image.Refs {
			if err := p.push(ctx, image, ref); err != nil {
				return refs, fmt.Errorf("push %s: %w", layerdb.Familiar(ref), err)
			}
			e.noteImage(layerdb.Familiar(ref), "push", layerdb.Familiar(ref))
			refs = append(refs, ref)
		}
	}
	return refs, nil
}

// pushed finds the images that a name says, each with its references.
func (e *Engine) pushed(name string, all bool) (repository string, list []archive.SaveImage, err error) {
	ref, err := layerdb.ParseRef(name)
	if err != nil {
		return "", nil, err
	}
	if all && layerdb.Tagged(name) {
		return "", nil, errors.New("tag can't be used with --all-tags/-a")
	}
	repository, _ = layerdb.SplitRef(ref)
	refs := []string{ref}
	err = e.store.View(func(tx *layerdb.Tx) error {
		if all {
			if refs, err = tagsOf(tx, repository); err != nil {
				return err
			}
		}
		for _, ref := range refs {
			if err := addPushed(tx, &list, ref); err != nil {
				return err
			}
		}
		return nil
	})
	return repository, list, err
}

// addPushed adds the image that is here under the reference.
func addPushed(tx *layerdb.Tx, list *[]archive.SaveImage, ref string) error {
	if _, err := tx.Tag(ref); errors.Is(err, layerdb.ErrNoSuchImage) && ref != hostRef {
		return fmt.Errorf("an image does not exist locally with the tag: %s; 'varve tag' gives one another name", layerdb.Familiar(ref))
	}
	return addSaved(tx, list, ref)
}

// tagsOf are the references in a repository, sorted.
func tagsOf(tx *layerdb.Tx, repository string) ([]string, error) {
	tags, err := tx.Tags()
	if err != nil {
		return nil, err
	}
	refs := slices.DeleteFunc(slices.Sorted(maps.Keys(tags)), func(ref string) bool {
		other, _ := layerdb.SplitRef(ref)
		return other != repository
	})
	if len(refs) == 0 {
		return nil, fmt.Errorf("an image does not exist locally with the tag: %s", repository)
	}
	return refs, nil
}

// pusher brings images to one repository.
type pusher struct {
	engine   *Engine
	repo     *registry.Repository
	stage    *layout.Stage // of compressed layers on their way
	held     *layerdb.Held // the layers, so that no rmi takes them meanwhile
	origins  map[digest.Digest][]layerdb.Origin
	forms    map[digest.Digest]v1.Descriptor // of the layers that are there, by diff ID
	progress Progress
}

// open connects to the registry, with the right to take layers from the repositories
// where they are known to be.
func (p *pusher) open(ctx context.Context, repository string, list []archive.SaveImage, insecure bool) error {
	var ids []digest.Digest
	for _, image := range list {
		ids = append(ids, diffIDs(image)...)
	}
	from, err := p.findOrigins(ids)
	if err != nil {
		return err
	}
	if p.repo, err = registry.Open(ctx, repository, registry.Options{Insecure: insecure, Push: true, From: from}); err != nil {
		return err
	}
	if p.held, err = p.engine.store.Hold(ids...); err != nil {
		return err
	}
	if p.stage, err = p.engine.store.Stage("push"); err != nil {
		p.held.Release()
	}
	return err
}

func (p *pusher) close() error {
	p.held.Release()
	return p.stage.Discard()
}

func diffIDs(image archive.SaveImage) []digest.Digest {
	var ids []digest.Digest
	for _, l := range image.Layers {
		ids = append(ids, l.DiffID)
	}
	return ids
}

// findOrigins looks where the layers are known to be, and returns the repositories.
func (p *pusher) findOrigins(ids []digest.Digest) (from []string, err error) {
	p.origins = map[digest.Digest][]layerdb.Origin{}
	err = p.engine.store.View(func(tx *layerdb.Tx) error {
		for _, id := range ids {
			known, err := tx.Origins(id)
			if err != nil {
				return err
			}
			p.origins[id] = known
			for _, o := range known {
				from = append(from, o.Repository)
			}
		}
		return nil
	})
	slices.Sort(from)
	return slices.Compact(from), err
}

// push brings one image: its layers side by side, its configuration, and when all of
// that is there its manifest.
func (p *pusher) push(ctx context.Context, image archive.SaveImage, ref string) error {
	ids := diffIDs(image)
	if err := p.layers(ctx, ids); err != nil {
		return err
	}
	config := descriptor(v1.MediaTypeImageConfig, image.Config)
	if err := p.small(ctx, config, image.Config); err != nil {
		return err
	}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config, Layers: []v1.Descriptor{}}
	for _, id := range ids {
		m.Layers = append(m.Layers, p.forms[id])
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	repository, tag := layerdb.SplitRef(ref)
	if err := p.repo.PutManifest(ctx, tag, v1.MediaTypeImageManifest, manifest); err != nil {
		return err
	}
	err = p.engine.update(func(tx *layerdb.Tx) error {
		id := digest.FromBytes(image.Config).Encoded()
		if _, err := tx.Image(id); errors.Is(err, layerdb.ErrNoSuchImage) {
			return nil // removed meanwhile
		}
		return tx.SetDigest(repository, digest.FromBytes(manifest), id)
	})
	return errors.Join(err, p.engine.noteOrigins(repository, ids, m.Layers))
}

func descriptor(mediaType string, data []byte) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// small brings something small.
func (p *pusher) small(ctx context.Context, d v1.Descriptor, data []byte) error {
	there, err := p.repo.Has(ctx, d.Digest)
	if err != nil || there {
		return err
	}
	return p.repo.Upload(ctx, d, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
}

// layers brings those that are not known to be there yet, and notes all in forms.
func (p *pusher) layers(ctx context.Context, ids []digest.Digest) error {
	var todo []digest.Digest
	for _, id := range ids {
		if _, ok := p.forms[id]; !ok && !slices.Contains(todo, id) {
			todo = append(todo, id)
			p.progress(Step{Layer: id, What: "Waiting"})
		}
	}
	made := make([]v1.Descriptor, len(todo))
	places := make([]int, len(todo))
	for i := range places {
		places[i] = i
	}
	err := sideBySide(ctx, places, func(ctx context.Context, i int) (err error) {
		made[i], err = p.layer(ctx, todo[i])
		return err
	})
	if err != nil {
		return err
	}
	for i, id := range todo {
		p.forms[id] = made[i]
	}
	return nil
}

// layer brings one layer and returns in what form: one that the registry has, or can
// take from another repository, or a new one.
func (p *pusher) layer(ctx context.Context, id digest.Digest) (v1.Descriptor, error) {
	for _, o := range p.origins[id] {
		what, err := p.find(ctx, o)
		if err != nil {
			return v1.Descriptor{}, err
		}
		if what != "" {
			p.progress(Step{Layer: id, What: what})
			return v1.Descriptor{MediaType: ociType(o.MediaType), Digest: o.Digest, Size: o.Size}, nil
		}
	}
	return p.make(ctx, id)
}

// find says how the registry has the layer in this form, "" if it has not.
func (p *pusher) find(ctx context.Context, o layerdb.Origin) (string, error) {
	there, err := p.repo.Has(ctx, o.Digest)
	if err != nil || there {
		return "Layer already exists", err
	}
	mounted, err := p.repo.Mount(ctx, o.Digest, o.Repository)
	if err != nil || !mounted {
		return "", err
	}
	return "Mounted from " + o.Repository, nil
}

// ociType is the media type of OCI that docker's stands for, so that all parts of a
// manifest are of one family.
func ociType(mediaType string) string {
	switch mediaType {
	case "application/vnd.docker.image.rootfs.diff.tar":
		return v1.MediaTypeImageLayer
	case "application/vnd.docker.image.rootfs.diff.tar.gzip":
		return v1.MediaTypeImageLayerGzip
	case "application/vnd.docker.image.rootfs.diff.tar.zstd":
		return v1.MediaTypeImageLayerZstd
	}
	return mediaType
}

// make compresses a layer and sends it. Its digest has to be known before: a file is
// kept meanwhile, in the stage.
func (p *pusher) make(ctx context.Context, id digest.Digest) (v1.Descriptor, error) {
	file := filepath.Join(p.stage.Path(), id.Encoded())
	p.progress(Step{Layer: id, What: "Preparing"})
	d, err := p.compress(ctx, file, id)
	if err != nil {
		return d, err
	}
	there, err := p.repo.Has(ctx, d.Digest)
	if err == nil && !there {
		step := Step{Layer: id, What: "Pushing", Total: d.Size}
		err = p.repo.Upload(ctx, d, func() (io.ReadCloser, error) { return openCounted(ctx, file, step, p.progress) })
	}
	if err != nil {
		return d, err
	}
	p.progress(Step{Layer: id, What: map[bool]string{true: "Layer already exists", false: "Pushed"}[there]})
	return d, os.Remove(file)
}

func (p *pusher) compress(ctx context.Context, file string, id digest.Digest) (v1.Descriptor, error) {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d, err := archive.CompressLayer(ctx, out, p.engine.store.LayerDir(id), id)
	return d, errors.Join(err, out.Close())
}

// countedFile is a file that tells how far its reading has come.
type countedFile struct {
	counter
	io.Closer
}

func openCounted(ctx context.Context, file string, step Step, tell Progress) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	return &countedFile{counter{f, ctx, step, tell}, f}, nil
}
