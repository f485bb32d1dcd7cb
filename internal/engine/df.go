package engine

import (
	"github.com/opencontainers/go-digest"

	"github.com/varvefs/varve/layerdb"
)

// Usage is one line of `varve system df`: how many things of a kind there are, how
// many are in use, and how many bytes their files have and would be set free.
type Usage struct {
	Type              string
	Total, Active     int
	Size, Reclaimable int64
}

// DiskUsage tells what needs the space of the store. A layer counts once, whatever
// the number of images on it. It has to run [Inside].
func (e *Engine) DiskUsage() ([]Usage, error) {
	images := Usage{Type: "Images"}
	var containers []layerdb.Container
	err := e.store.View(func(tx *layerdb.Tx) (err error) {
		if containers, err = tx.Containers(); err != nil {
			return err
		}
		return images.count(tx, containers)
	})
	if err != nil {
		return nil, err
	}
	boxes := Usage{Type: "Containers", Total: len(containers)}
	for _, c := range containers {
		if err := boxes.add(e, c); err != nil {
			return nil, err
		}
	}
	return []Usage{images, boxes, {Type: "Local Volumes"}, {Type: "Build Cache"}}, nil
}

// count measures images; "host" has nothing in the store and is none.
func (u *Usage) count(tx *layerdb.Tx, containers []layerdb.Container) error {
	images, err := tx.Images()
	if err != nil {
		return err
	}
	all, used := map[digest.Digest]int64{}, map[digest.Digest]bool{}
	for _, i := range images {
		chain, err := tx.Chain(i.Top)
		if err != nil {
			return err
		}
		if len(chain) == 1 && chain[0].Host {
			continue
		}
		active := false
		for _, c := range containers {
			active = active || c.ImageID == i.ID
		}
		u.Total++
		if active {
			u.Active++
		}
		for _, l := range chain {
			all[l.DiffID] = l.Size
			used[l.DiffID] = used[l.DiffID] || active
		}
	}
	for id, size := range all {
		u.Size += size
		if !used[id] {
			u.Reclaimable += size
		}
	}
	return nil
}

// add measures a container.
func (u *Usage) add(e *Engine, c layerdb.Container) error {
	state, err := e.ReadState(c.ID)
	if err != nil {
		return err
	}
	size, err := e.spaceOf(c.ID)
	u.Size += size
	if state.Up() {
		u.Active++
	} else {
		u.Reclaimable += size
	}
	return err
}
