package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/registry"
	"github.com/varvefs/varve/layerdb"
)

// PullOptions are what `varve pull` asks for. The zero value works.
type PullOptions struct {
	Platform string   // os/arch[/variant], "" for this machine's
	AllTags  bool     // of the repository; then the name must not have one
	Insecure bool     // any certificate will do, and plain HTTP
	Progress Progress // nil for nobody
}

// Pull fetches an image, or all images of a repository, that a registry has under the
// name, and returns the full references under which they are here now, also if
// another of them could not be had. Layers that
// are here already are not fetched. Nothing is seen of an image before all of it is
// here. It has to run [Inside].
func (e *Engine) Pull(ctx context.Context, name string, opt PullOptions) ([]string, error) {
	repository, references, err := pulled(name, opt.AllTags)
	if err != nil {
		return nil, err
	}
	if err := e.Sweep(); err != nil {
		return nil, err
	}
	repo, err := registry.Open(ctx, repository, registry.Options{Insecure: opt.Insecure})
	if err != nil {
		return nil, err
	}
	if opt.AllTags {
		if references, err = repo.Tags(ctx); err != nil {
			return nil, err
		}
	}
	var refs []string
	var errs []error
	for _, reference := range references {
		ref, err := e.pull(ctx, repo, reference, opt)
		if err != nil {
			errs = append(errs, fmt.Errorf("pull %s: %w", familiar(repository, reference), err))
			continue
		}
		e.noteImage(layerdb.Familiar(ref), "pull", layerdb.Familiar(repository+":latest"))
		refs = append(refs, ref)
	}
	return refs, errors.Join(errs...)
}

// pulled reads a name: the repository, and the tag or digest, unless all tags are
// wanted.
func pulled(name string, all bool) (repository string, references []string, err error) {
	if repository, d, err := layerdb.ParseDigestRef(name); err == nil && !all {
		return repository, []string{d.String()}, nil
	}
	ref, err := layerdb.ParseRef(name)
	switch {
	case err != nil:
		return "", nil, err
	case ref == hostRef:
		return "", nil, errors.New("the image host is this machine: it is here")
	case all && layerdb.Tagged(name):
		return "", nil, errors.New("tag can't be used with --all-tags/-a")
	}
	repository, tag := layerdb.SplitRef(ref)
	return repository, []string{tag}, nil
}

// fullRef is a reference in a repository: by tag or by digest.
func fullRef(repository, reference string) string {
	if digest.Digest(reference).Validate() == nil {
		return repository + "@" + reference
	}
	return repository + ":" + reference
}

func familiar(repository, reference string) string {
	if digest.Digest(reference).Validate() == nil {
		repo, _ := layerdb.RepoTag(repository + ":latest")
		return repo + "@" + reference
	}
	return layerdb.Familiar(repository + ":" + reference)
}

// IsNoSuchImage tells whether something failed because an image is not here.
func IsNoSuchImage(err error) bool { return errors.Is(err, layerdb.ErrNoSuchImage) }

// FullName is the name of an image as people write it, with its tag; a name that can
// not be one is an error.
func FullName(name string) (string, error) {
	if strings.Contains(name, "@") {
		_, _, err := layerdb.ParseDigestRef(name)
		return name, err
	}
	ref, err := layerdb.ParseRef(name)
	if err != nil {
		return "", err
	}
	return layerdb.Familiar(ref), nil
}

// puller is one image on its way here.
type puller struct {
	engine   *Engine
	repo     *registry.Repository
	manifest registry.Manifest
	config   []byte
	diffIDs  []digest.Digest // of the manifest's layers, in their order
	intake   *archive.Intake
	progress Progress
}

// pull fetches one image.
func (e *Engine) pull(ctx context.Context, repo *registry.Repository, reference string, opt PullOptions) (ref string, err error) {
	p := &puller{engine: e, repo: repo, progress: opt.Progress}
	if p.progress == nil {
		p.progress = func(Step) {}
	}
	if err := p.look(ctx, reference, opt.Platform); err != nil {
		return "", err
	}
	p.intake = archive.NewIntake(e.store, archive.UnpackOptions{})
	defer func() { err = errors.Join(err, p.intake.Close()) }()
	if err := p.fetch(ctx); err != nil {
		return "", err
	}
	ref = fullRef(repo.Name(), reference)
	return ref, p.record(ref)
}

// look reads what the image consists of, and refuses what can not be used before
// anything large is fetched.
func (p *puller) look(ctx context.Context, reference, platform string) (err error) {
	if p.manifest, err = p.repo.Manifest(ctx, reference, platform); err != nil {
		return err
	}
	for _, l := range p.manifest.Layers {
		if err := archive.CheckLayerType(l.MediaType); err != nil {
			return err
		}
	}
	if p.config, err = p.repo.Config(ctx, p.manifest); err != nil {
		return err
	}
	config, err := archive.ReadConfig(p.config)
	if err != nil {
		return err
	}
	if p.diffIDs = config.RootFS.DiffIDs; len(p.diffIDs) != len(p.manifest.Layers) {
		return fmt.Errorf("%w: its manifest has %d layers, and its configuration %d",
			registry.ErrUnsupported, len(p.manifest.Layers), len(p.diffIDs))
	}
	return registry.CheckPlatform(config, platform)
}

// fetch brings the layers that are missing, side by side.
func (p *puller) fetch(ctx context.Context) error {
	missing, err := p.intake.Missing(p.diffIDs)
	if err != nil {
		return err
	}
	var wanted []int // places in the manifest; each diff ID once
	for i, id := range p.diffIDs {
		l := p.manifest.Layers[i]
		switch {
		case !slices.Contains(missing, id):
			p.progress(Step{Layer: l.Digest, What: "Already exists"})
		case slices.Index(p.diffIDs, id) == i:
			p.progress(Step{Layer: l.Digest, What: "Waiting"})
			wanted = append(wanted, i)
		}
	}
	return sideBySide(ctx, wanted, func(ctx context.Context, i int) error {
		return p.take(ctx, p.manifest.Layers[i], p.diffIDs[i])
	})
}

// take fetches one layer and unpacks it as it comes.
func (p *puller) take(ctx context.Context, l v1.Descriptor, diffID digest.Digest) error {
	blob := p.repo.Blob(ctx, l)
	defer func() { _ = blob.Close() }() // only read
	step := Step{Layer: l.Digest, What: "Pulling", Total: l.Size}
	err := p.intake.Take(&counter{r: blob, ctx: ctx, step: step, tell: p.progress},
		archive.Blob{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size, DiffID: diffID})
	if err == nil {
		p.progress(Step{Layer: l.Digest, What: "Pull complete"})
	}
	return err
}

// record makes the image known, all at once, and its chain's index.
func (p *puller) record(ref string) error {
	index := p.engine.beginIndexing([][]string{chainNames(p.diffIDs)}, p.intake.Staged())
	err := p.intake.Sync()
	if err == nil {
		err = p.put(ref)
	}
	if err != nil {
		return errors.Join(err, index.drop())
	}
	_ = index.keep() // the image is there, also without: its first container would have it made
	return p.engine.noteOrigins(p.repo.Name(), p.diffIDs, p.manifest.Layers)
}

func (p *puller) put(ref string) error {
	return p.engine.update(func(tx *layerdb.Tx) error {
		image, err := p.intake.Put(tx, p.config)
		if err != nil {
			return err
		}
		if _, _, err := layerdb.ParseDigestRef(ref); err != nil { // a tag
			err = tx.SetTag(ref, image.ID)
			if err != nil {
				return err
			}
		}
		return tx.SetDigest(p.repo.Name(), p.manifest.Named, image.ID)
	})
}

// noteOrigins keeps in what form a registry has layers, so that push need not make
// and send them again.
func (e *Engine) noteOrigins(repository string, diffIDs []digest.Digest, forms []v1.Descriptor) error {
	if len(diffIDs) == 0 {
		return nil
	}
	return e.update(func(tx *layerdb.Tx) error {
		for i, id := range diffIDs {
			o := layerdb.Origin{Repository: repository, MediaType: forms[i].MediaType, Digest: forms[i].Digest, Size: forms[i].Size}
			if err := tx.AddOrigin(id, o); err != nil {
				return err
			}
		}
		return nil
	})
}
