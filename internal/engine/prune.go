package engine

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/layerdb"
)

// PruneOptions are what `varve system prune` asks for.
type PruneOptions struct {
	All     bool     // also images with a name, if no container uses them
	Filters []string // until=TIME, label=NAME[=VALUE], label!=NAME[=VALUE]
}

// Pruned is what a prune removed.
type Pruned struct {
	Containers []string // IDs
	Images     []string // docker's lines
	Space      int64    // bytes of files
}

// grace is how long a container that never ran is left alone: its supervisor may be
// about to begin.
const grace = 10 * time.Second

// Prune removes the containers that do not run, the images without a name that
// nothing stands on, or with All every image that no container uses, and what
// crashes left. It has to run [Inside].
func (e *Engine) Prune(opt PruneOptions) (Pruned, error) {
	filters, err := parseFilters(opt.Filters, "until", "label", "label!")
	if err != nil {
		return Pruned{}, err
	}
	now := time.Now()
	limit, err := filters.until(now)
	if err != nil {
		return Pruned{}, err
	}
	if limit.IsZero() {
		limit = now.Add(time.Hour) // whatever the clock says
	}
	p := pruner{engine: e, all: opt.All, filters: filters, now: now, limit: limit}
	err = e.update(func(tx *layerdb.Tx) error {
		p.tx, p.out = tx, Pruned{}
		return p.run()
	})
	if err != nil {
		return Pruned{}, err
	}
	for _, id := range p.out.Containers {
		e.NoteContainer(id, "destroy", nil)
	}
	for _, line := range p.out.Images {
		if id, is := strings.CutPrefix(line, "Deleted: "); is {
			e.noteImage(id, "delete", "")
		}
	}
	return p.out, e.finish(e.store.Sweep())
}

// pruner is one prune, in one transaction.
type pruner struct {
	engine  *Engine
	tx      *layerdb.Tx
	all     bool
	filters filters
	now     time.Time
	limit   time.Time // what is younger stays
	out     Pruned
}

func (p *pruner) run() error {
	if err := p.containers(); err != nil {
		return err
	}
	sizes, err := p.layerSizes()
	if err != nil {
		return err
	}
	r := imageRemoval{tx: p.tx, engine: p.engine}
	for again := true; again; { // a parent may go when its last child has gone
		if again, err = p.images(&r); err != nil {
			return err
		}
	}
	_, gone, err := p.tx.Collect()
	for _, id := range gone {
		p.out.Space += sizes[id]
	}
	p.out.Images = r.done
	return err
}

func (p *pruner) containers() error {
	list, err := p.tx.Containers()
	if err != nil {
		return err
	}
	for _, c := range list {
		ok, err := p.stopped(c)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		size, err := p.engine.spaceOf(c.ID)
		if err != nil {
			return err
		}
		if err := p.tx.DeleteContainer(c.ID); err != nil {
			return err
		}
		p.out.Space += size
		p.out.Containers = append(p.out.Containers, c.ID)
	}
	return nil
}

// stopped tells whether a container may go.
func (p *pruner) stopped(c layerdb.Container) (bool, error) {
	state, err := p.engine.ReadState(c.ID)
	if err != nil || state.Up() || state.Busy() {
		return false, err
	}
	if state.Status == container.Created && p.now.Sub(c.Created) < grace || !c.Created.Before(p.limit) {
		return false, nil
	}
	spec, err := p.engine.ReadSpec(c.ID)
	return err == nil && p.filters.labels(spec.Config.Labels), err
}

// images removes those images that may go now, and tells whether there were any.
func (p *pruner) images(r *imageRemoval) (some bool, err error) {
	list, err := p.tx.Images()
	if err != nil {
		return false, err
	}
	for _, i := range list {
		ok, refs, err := p.unused(r, i)
		if err != nil {
			return some, err
		}
		if !ok {
			continue
		}
		for _, ref := range refs {
			if err := r.untag(ref); err != nil {
				return some, err
			}
		}
		if err := p.tx.DeleteImage(i.ID); err != nil {
			return some, err
		}
		r.done = append(r.done, "Deleted: sha256:"+i.ID)
		some = true
	}
	return some, nil
}

// unused tells whether an image may go, and under which names it is known.
func (p *pruner) unused(r *imageRemoval, i layerdb.Image) (ok bool, refs []string, err error) {
	if refs, err = refsOf(p.tx, i.ID); err != nil {
		return false, nil, err
	}
	if len(refs) > 0 && !p.all || slices.Contains(refs, hostRef) || !i.Created.Before(p.limit) {
		return false, nil, nil
	}
	containers, err := p.tx.Containers()
	if err != nil || slices.ContainsFunc(containers, func(c layerdb.Container) bool { return c.ImageID == i.ID }) {
		return false, nil, err
	}
	children, err := r.children(i)
	if err != nil || children {
		return false, nil, err
	}
	config, err := parseConfig(i)
	return err == nil && p.filters.labels(config.Config.Labels), refs, err
}

// layerSizes are the bytes of the files of each layer.
func (p *pruner) layerSizes() (map[digest.Digest]int64, error) {
	layers, err := p.tx.Layers()
	sizes := map[digest.Digest]int64{}
	for _, l := range layers {
		sizes[l.DiffID] = l.Size
	}
	return sizes, err
}

// upper is the directory of a container's own files.
func (e *Engine) upper(id string) string {
	return filepath.Join(e.store.ContainerDir(id), container.UpperName)
}
