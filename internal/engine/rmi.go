package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/varvefs/varve/layerdb"
)

// RemoveImageOptions are what `varve rmi` asks for. The zero value works.
type RemoveImageOptions struct {
	Force   bool // also if containers, other names or other images use it
	NoPrune bool // keep parents that have no name of their own
}

// RemoveImage removes a name of an image and, if it was the last, the image and
// all layers nobody else needs; an ID means all names. It returns what was done,
// in docker's lines.
//
// As in docker an image with children that loses its last name stays, without
// one, until the children go.
func (e *Engine) RemoveImage(name string, opt RemoveImageOptions) ([]string, error) {
	if isHost(name) {
		return nil, errors.New("the image host is this machine: it cannot be removed")
	}
	var r imageRemoval
	err := e.update(func(tx *layerdb.Tx) error {
		r = imageRemoval{tx: tx, engine: e, opt: opt}
		return r.remove(name)
	})
	if err != nil {
		return nil, err
	}
	for _, line := range r.done {
		if name, is := strings.CutPrefix(line, "Untagged: "); is {
			e.noteImage("sha256:"+r.image, "untag", name)
		}
	}
	for _, id := range r.deleted {
		e.noteImage("sha256:"+id, "delete", "")
	}
	return r.done, nil
}

// imageRemoval is one change that removes an image.
type imageRemoval struct {
	tx     *layerdb.Tx
	engine *Engine
	opt    RemoveImageOptions
	done   []string

	image   string   // the ID of the one that was named
	deleted []string // IDs of images
}

func (r *imageRemoval) remove(name string) error {
	image, err := r.tx.FindImage(name)
	if err != nil {
		return err
	}
	r.image = image.ID
	refs, err := refsOf(r.tx, image.ID)
	if err != nil {
		return err
	}
	ref, err := layerdb.ParseRef(name)
	byName := err == nil && slices.Contains(refs, ref)
	if byName && len(refs) > 1 {
		return r.untag(ref)
	}
	if !byName && len(refs) > 1 && !r.opt.Force {
		return fmt.Errorf("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories", image.ID[:12])
	}
	stay, err := r.check(image, byName, name)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		if err := r.untag(ref); err != nil {
			return err
		}
	}
	if stay {
		return nil
	}
	return r.delete(image)
}

func (r *imageRemoval) untag(ref string) error {
	r.done = append(r.done, "Untagged: "+layerdb.Familiar(ref))
	return r.tx.DeleteTag(ref)
}

// check refuses to remove what others use. stay means that only the name goes.
func (r *imageRemoval) check(image layerdb.Image, byName bool, name string) (stay bool, err error) {
	containers, err := r.tx.Containers()
	if err != nil {
		return false, err
	}
	for _, c := range containers {
		if c.ImageID != image.ID {
			continue
		}
		if err := r.checkUser(c, image, byName, name); err != nil {
			return false, err
		}
	}
	children, err := r.children(image)
	if err != nil || !children || r.opt.Force && !byName {
		return false, err
	}
	if !byName {
		return false, fmt.Errorf("conflict: unable to delete %s (must be forced) - image has dependent child images", image.ID[:12])
	}
	return true, nil
}

// checkUser says whether the container c lets its image go.
func (r *imageRemoval) checkUser(c layerdb.Container, image layerdb.Image, byName bool, name string) error {
	state, err := r.engine.ReadState(c.ID)
	if err != nil {
		return err
	}
	switch {
	case state.Up() || state.Busy():
		return fmt.Errorf("conflict: unable to delete %s (cannot be forced) - image is being used by running container %s", image.ID[:12], c.ID[:12])
	case r.opt.Force:
		return nil
	case byName:
		return fmt.Errorf("conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s", name, c.ID[:12], image.ID[:12])
	}
	return fmt.Errorf("conflict: unable to delete %s (must be forced) - image is being used by stopped container %s", image.ID[:12], c.ID[:12])
}

// children tells whether another image stands on the image's top layer.
func (r *imageRemoval) children(image layerdb.Image) (bool, error) {
	all, err := r.tx.Images()
	if err != nil {
		return false, err
	}
	for _, other := range all {
		if other.Top == image.Top {
			continue
		}
		chain, err := r.tx.Chain(other.Top)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(chain, func(l layerdb.Layer) bool { return l.ID == image.Top }) {
			return true, nil
		}
	}
	return false, nil
}

// delete forgets the image, its nameless parents, and the layers that nobody
// reaches any more.
func (r *imageRemoval) delete(image layerdb.Image) error {
	if err := r.tx.DeleteImage(image.ID); err != nil {
		return err
	}
	r.done = append(r.done, "Deleted: sha256:"+image.ID)
	r.deleted = append(r.deleted, image.ID)
	if !r.opt.NoPrune {
		if err := r.prune(image); err != nil {
			return err
		}
	}
	return r.collect()
}

// collect forgets the layers that nobody reaches any more. Lines of a history
// without files are no layers to docker.
func (r *imageRemoval) collect() error {
	dropped, _, err := r.tx.Collect()
	for _, l := range dropped {
		if !l.Empty && !l.Host {
			r.done = append(r.done, "Deleted: sha256:"+l.ID)
		}
	}
	return err
}

// prune forgets the images below that have no name and no users any more.
func (r *imageRemoval) prune(image layerdb.Image) error {
	chain, err := r.tx.Chain(image.Top)
	if err != nil {
		return err
	}
	all, err := r.tx.Images()
	if err != nil {
		return err
	}
	for _, l := range chain {
		for _, parent := range all {
			if parent.Top != l.ID || l.Host {
				continue
			}
			if err := r.pruneOne(parent); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *imageRemoval) pruneOne(parent layerdb.Image) error {
	refs, err := refsOf(r.tx, parent.ID)
	if err != nil || len(refs) > 0 {
		return err
	}
	children, err := r.children(parent)
	if err != nil || children {
		return err
	}
	containers, err := r.tx.Containers()
	if err != nil || slices.ContainsFunc(containers, func(c layerdb.Container) bool { return c.ImageID == parent.ID }) {
		return err
	}
	r.done = append(r.done, "Deleted: sha256:"+parent.ID)
	r.deleted = append(r.deleted, parent.ID)
	return r.tx.DeleteImage(parent.ID)
}
