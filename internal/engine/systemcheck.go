package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/layerdb"
	"github.com/varvefs/varve/runner"
)

// StoreCheckOptions are what `varve system check` asks for. The zero value looks at the
// records and at what lies beside them, and sweeps.
type StoreCheckOptions struct {
	Deep   bool // read every file of every layer, too
	Repair bool // first make the database again from what lies beside it
}

// StoreChecked is what a check found.
type StoreChecked struct {
	Layers, Images, Containers int
	Swept                      int      // things that crashes had left, and that are gone
	Repaired                   string   // what a repair found wrong with the database, "" if nothing
	Problems                   []string // what does not fit together, or is lost; a sentence each
}

// Check compares all records of the store with each other and with the bytes beside
// them, and removes what crashes left. It has to run [Inside].
func (e *Engine) CheckStore(opt StoreCheckOptions) (StoreChecked, error) {
	var out StoreChecked
	damage, err := e.probe()
	if err != nil {
		return out, err
	}
	if opt.Repair {
		done, err := e.store.Repair(damage)
		if err != nil {
			return out, err
		}
		out.Problems = done.Lost
		if done.Damage != nil {
			out.Repaired = done.Damage.Error()
		}
	} else if damage != nil {
		out.Problems = []string{damage.Error() + "; 'varve system check --repair' makes it again from what lies beside it"}
		return out, nil
	}
	before := e.countNames()
	if err := e.finish(e.store.Sweep()); err != nil {
		return out, err
	}
	out.Swept = max(0, before-e.countNames())
	return out, e.checkAll(&out, opt.Deep)
}

// probe reads the database in a process of its own, which a damaged one may end.
// damage says that it did.
func (e *Engine) probe() (damage, err error) {
	quiet, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = quiet.Close() }() // nothing was written
	child, err := runner.StartSelf(runner.Self{
		Args: []string{"varve", "probe"}, Env: container.Environ(e.Root()), Stdin: quiet, Stdout: quiet, Stderr: quiet,
	})
	if err != nil {
		return nil, fmt.Errorf("look at the database: %w", err)
	}
	code, err := child.Wait()
	if err != nil {
		return nil, fmt.Errorf("look at the database: %w", err)
	}
	if code != 0 {
		return errors.New("the database of the store is damaged"), nil
	}
	return nil, nil
}

// Probe is what the process of [Engine.CheckStore] does that looks at the database.
func (e *Engine) Probe() error { return e.store.Probe() }

// countNames counts what a sweep may remove.
func (e *Engine) countNames() int {
	count := 0
	for _, dir := range []string{"tmp", "layers", "containers", "chains", "images"} {
		list, err := os.ReadDir(filepath.Join(e.Root(), dir))
		if err == nil { // a store that has no such directory has nothing in it
			count += len(list)
		}
	}
	return count
}

// checkAll holds the records against each other, then against the bytes, without
// the store being locked.
func (e *Engine) checkAll(out *StoreChecked, deep bool) error {
	var layers []layerdb.Layer
	var images []layerdb.Image
	var containers []layerdb.Container
	chains := map[string][]layerdb.Layer{}
	err := e.store.View(func(tx *layerdb.Tx) error {
		problems, err := tx.Check()
		out.Problems = append(out.Problems, problems...)
		if err != nil || len(problems) > 0 {
			return err
		}
		var errs [3]error
		layers, errs[0] = tx.Layers()
		images, errs[1] = tx.Images()
		containers, errs[2] = tx.Containers()
		for _, i := range images {
			if chains[i.Top], err = tx.Chain(i.Top); err != nil {
				return err
			}
		}
		for _, c := range containers {
			if chains[c.Top], err = tx.Chain(c.Top); err != nil {
				return err
			}
		}
		return errors.Join(errs[:]...)
	})
	if err != nil {
		return err
	}
	out.Layers, out.Images, out.Containers = len(layers), len(images), len(containers)
	for _, i := range images {
		out.add(checkConfig(i, chains[i.Top]))
	}
	for _, c := range containers {
		out.add(e.checkContainer(c, chains[c.Top]))
	}
	return e.checkLayers(out, layers, deep)
}

func (out *StoreChecked) add(err error) {
	if err != nil {
		out.Problems = append(out.Problems, err.Error())
	}
}

// checkConfig tells whether an image's config speaks of the layers of its chain.
func checkConfig(i layerdb.Image, chain []layerdb.Layer) error {
	config, err := parseConfig(i)
	if err != nil {
		return err
	}
	var ids []digest.Digest
	for _, l := range slices.Backward(chain) {
		if !l.Host && !l.Empty {
			ids = append(ids, l.DiffID)
		}
	}
	if !slices.Equal(ids, config.RootFS.DiffIDs) {
		return fmt.Errorf("image %.12s: its config speaks of other layers than it has", i.ID)
	}
	return nil
}

// checkContainer tells whether a container has its files, and stands on its chain.
func (e *Engine) checkContainer(c layerdb.Container, chain []layerdb.Layer) error {
	spec, err := e.ReadSpec(c.ID)
	if err == nil && !slices.Equal(spec.Layers, layerNames(chain)) {
		err = errors.New("its config.json speaks of other layers than it has")
	}
	if err == nil {
		var info os.FileInfo
		info, err = os.Lstat(e.upper(c.ID))
		if errors.Is(err, os.ErrNotExist) { // it may be made of a copy at the next look
			info, err = os.Lstat(filepath.Join(e.store.ContainerDir(c.ID), container.CopyName))
		}
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("upper: %w", unix.ENOTDIR)
		}
	}
	if err == nil || !isDir(e.store.ContainerDir(c.ID)) { // removed meanwhile
		return nil
	}
	return fmt.Errorf("container %s: %w", c.Name, err)
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// checkLayers looks at the files of layers, which are held meanwhile. A layer that
// is not there has been removed since, or is missing.
func (e *Engine) checkLayers(out *StoreChecked, layers []layerdb.Layer, deep bool) error {
	byDiff := map[digest.Digest]layerdb.Layer{}
	for _, l := range layers {
		if !l.Host && !l.Empty {
			byDiff[l.DiffID] = l
		}
	}
	var ids []digest.Digest
	for id := range byDiff {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	held, err := e.store.Hold(ids...)
	if err != nil {
		return err
	}
	defer held.Release()
	for _, id := range ids {
		if err := e.checkLayer(byDiff[id], deep); err != nil && e.recorded(byDiff[id].ID) {
			out.add(fmt.Errorf("layer %s: %w", id, err))
		}
	}
	return nil
}

func (e *Engine) checkLayer(l layerdb.Layer, deep bool) error {
	if err := e.store.CheckBytes(l); err != nil {
		return err
	}
	if deep {
		return archive.WriteLayer(io.Discard, e.store.LayerDir(l.DiffID), l.DiffID)
	}
	return archive.CheckLayer(e.store.LayerDir(l.DiffID))
}

// recorded tells whether the layer is still in the store.
func (e *Engine) recorded(id string) bool {
	err := e.store.View(func(tx *layerdb.Tx) error {
		_, err := tx.Layer(id)
		return err
	})
	return !errors.Is(err, layerdb.ErrNoSuchLayer)
}
