package engine

import (
	"errors"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/unionfs"
)

// Index makes the index of a chain, given by the diff IDs of its layers, top first,
// in the place of the one that is there, from that of the layers below the top one if
// there is one. A chain that has none is no error. It has
// to run [Inside].
func (e *Engine) Index(names []string) error {
	c, err := e.Chain(names)
	if err != nil || c.Index == "" {
		return err
	}
	i := &indexing{engine: e}
	return errors.Join(i.build(c), i.keep())
}

// indexing is the making of the indexes of chains of new images. It goes on beside the
// work of making their layers durable and recording them: the directories of the layers
// are known to the kernel then, so it costs that work nothing but a processor.
type indexing struct {
	engine *Engine
	done   chan struct{} // closed when all are made; nil if they were made at once
	stage  *layout.Stage
	ready  []digest.Digest // chain IDs, each the file of its place in the stage
	left   [][]string      // chains whose layers were moved before they were looked at
}

// beginIndexing begins to make those indexes of the chains, given by the names of their
// layers, that are not there. Layers that are in stages still are found by staged. keep or
// drop has to be called. What fails is left undone: an image is good without, and its first
// container has the index made.
func (e *Engine) beginIndexing(chains [][]string, staged map[digest.Digest]string) *indexing {
	i := &indexing{engine: e, done: make(chan struct{})}
	go func() {
		defer close(i.done)
		for _, names := range chains {
			c, err := e.ChainWith(names, staged)
			if err == nil && (c.Index == "" || isFile(e.store.ChainFile(c.Index))) {
				continue
			}
			if err != nil || i.build(c) != nil {
				i.left = append(i.left, names)
			}
		}
	}()
	return i
}

// build makes one index in the stage.
func (i *indexing) build(c container.Chain) (err error) {
	if i.stage == nil {
		if i.stage, err = i.engine.store.Stage("index"); err != nil {
			return err
		}
	}
	file := i.file(len(i.ready))
	if c.Below == "" {
		err = unionfs.BuildIndex(file, c.Lowers)
	} else {
		err = unionfs.ExtendIndex(file, i.engine.store.ChainFile(c.Below), c.Lowers)
	}
	if err == nil {
		i.ready = append(i.ready, c.Index)
	}
	return err
}

func (i *indexing) file(n int) string { return filepath.Join(i.stage.Path(), strconv.Itoa(n)) }

// keep puts the indexes that were made into their places.
func (i *indexing) keep() error {
	if i.done != nil {
		<-i.done
	}
	var errs []error
	for n, id := range i.ready {
		errs = append(errs, i.engine.store.KeepChainFile(id, i.file(n)))
	}
	errs = append(errs, i.drop())
	for _, names := range i.left {
		errs = append(errs, i.engine.Index(names))
	}
	return errors.Join(errs...)
}

// drop removes what was made and not kept. It may follow keep.
func (i *indexing) drop() error {
	if i.done != nil {
		<-i.done
	}
	if i.stage == nil {
		return nil
	}
	return i.stage.Discard()
}
