package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/unionfs"
)

// packing makes a layer of the upper of a container.
type packing struct {
	engine  *Engine
	spec    container.Spec
	upper   string // the directory that is packed
	noPause bool
	warning error // how its programs were stopped, if they can notice it
}

// pack copies the upper into a new stage, without what the layers below have already.
// The stage is the caller's to discard if there is no error.
func (p *packing) pack() (*layout.Stage, archive.Unpacked, error) {
	if err := p.engine.Sweep(); err != nil {
		return nil, archive.Unpacked{}, err
	}
	stage, err := p.engine.store.Stage("commit")
	if err != nil {
		return nil, archive.Unpacked{}, err
	}
	diff, err := p.packInto(stage.Path())
	if err != nil {
		return nil, diff, errors.Join(err, stage.Discard())
	}
	return stage, diff, nil
}

// open says which directory is packed. Of a container that runs on a copy one is made,
// while its programs stand still.
func (p *packing) open() (done closeUpper, err error) {
	if !p.noPause && isDir(filepath.Join(p.engine.store.ContainerDir(p.spec.ID), container.CopyName)) {
		release, warning, err := p.engine.hold(p.spec.ID)
		if err != nil {
			return nil, errPause(err)
		}
		defer release()
		p.warning = warning
	}
	p.upper, done, err = p.engine.openUpper(&p.spec, archive.Difference{Loose: true})
	return done, err
}

func errPause(err error) error {
	return fmt.Errorf("pause the container: %w; with --pause=false it goes on while it is copied", err)
}

func (p *packing) packInto(dir string) (archive.Unpacked, error) {
	done, err := p.open()
	if err != nil {
		return archive.Unpacked{}, err
	}
	var diff archive.Unpacked
	if p.upper == p.engine.upper(p.spec.ID) {
		diff, err = p.packUpper(dir)
	} else {
		diff, err = p.packFrom(p.upper, dir, true)
	}
	return diff, errors.Join(err, done())
}

// packUpper packs the upper itself, to which programs may be writing.
func (p *packing) packUpper(dir string) (archive.Unpacked, error) {
	state, err := p.engine.ReadState(p.spec.ID)
	if err != nil {
		return archive.Unpacked{}, err
	}
	if state.Status != container.Running || p.noPause {
		return p.packFrom(p.upper, dir, false)
	}
	stage, err := p.engine.store.Stage("snapshot")
	if err != nil {
		return archive.Unpacked{}, err
	}
	var diff archive.Unpacked
	if err = p.snapshot(stage.Path()); err == nil {
		diff, err = p.packFrom(stage.Path(), dir, true)
	}
	return diff, errors.Join(err, stage.Discard())
}

// fewBytes is so little that to copy it once more takes a moment only.
const fewBytes = 4 << 20

// snapshot copies the upper of a running container to dir. What takes long is done while
// its programs run, so that they stand still only while the copy is compared with the
// upper, and what they changed meanwhile is copied again.
func (p *packing) snapshot(dir string) error {
	s, err := archive.NewSnapshot(p.upper, dir)
	if err != nil {
		return err
	}
	defer s.Close()
	for range 4 {
		copied, err := s.Follow()
		if err != nil {
			return err
		}
		if copied <= fewBytes {
			break
		}
	}
	release, warning, err := p.engine.hold(p.spec.ID)
	if err != nil {
		return errPause(err)
	}
	p.warning = warning
	err = s.Finish()
	release()
	return err
}

// packFrom packs the directory upper, which is the container's or a copy to be used up.
func (p *packing) packFrom(upper, dir string, move bool) (archive.Unpacked, error) {
	opt := archive.PackOptions{Move: move}
	if slices.Contains(p.spec.Layers, container.HostLayer) { // what is below may change, so all is kept
		return archive.PackUpper(upper, dir, opt)
	}
	chain, err := p.engine.Chain(p.spec.Layers)
	if err != nil {
		return archive.Unpacked{}, err
	}
	tree, err := unionfs.OpenTree(chain.Lowers)
	if err != nil {
		return archive.Unpacked{}, err
	}
	defer tree.Close()
	ids, err := container.IDsOf(p.spec)
	if err != nil {
		return archive.Unpacked{}, err
	}
	ids.Overflow = false // a file of nobody's is not root's
	opt.Placeholder = container.IsPlaceholder
	opt.Below = func(path string) (archive.File, bool, error) {
		entry, err := tree.Lookup(path)
		if errors.Is(err, fs.ErrNotExist) {
			return archive.File{}, false, nil
		}
		if err != nil {
			return archive.File{}, false, err
		}
		file, err := treeFile(entry, ids)
		return file, true, err
	}
	return archive.PackUpper(upper, dir, opt)
}
