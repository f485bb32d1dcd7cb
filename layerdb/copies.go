package layerdb

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/varvefs/varve/internal/layout"
)

// Beside the database lies a copy of every record, so that [Store.Repair] can make
// it again: a file for each image, with its chain and its tags, and one in the
// directory of each container.
const (
	imagesName = "images"
	copySuffix = ".json"
	recordName = "record.json"
)

// imageCopy is images/<image id>.json.
type imageCopy struct {
	Update uint64   `json:"update"` // the change of the store that wrote it; of two the later counts
	Image  Image    `json:"image"`
	Chain  []Layer  `json:"chain"` // top first
	Tags   []string `json:"tags"`  // full references
	// Digests are what registries call it, REPOSITORY@DIGEST.
	Digests []string `json:"digests,omitempty"`
}

// containerCopy is containers/<id>/record.json.
type containerCopy struct {
	Container Container `json:"container"`
	Chain     []Layer   `json:"chain"` // top first; also of an image that was removed
}

// touch has the copy of an image written, or removed with it, when the transaction
// ends.
func (tx *Tx) touch(imageID string) {
	if tx.touched == nil {
		tx.touched = map[string]bool{}
	}
	tx.touched[imageID] = true
}

// writeCopies brings the copies of the images that the transaction has changed up to
// date. They are durable before the change is: then a copy may say what the
// database never did, and no harm is done; and they go after it.
func (tx *Tx) writeCopies(update uint64) error {
	if len(tx.touched) == 0 {
		return nil
	}
	tags, err := tx.Tags()
	if err != nil {
		return err
	}
	digests, err := tx.Digests()
	if err != nil {
		return err
	}
	if err := os.Mkdir(tx.store.Path(imagesName), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keep a copy of an image's record: %w", err)
	}
	for id := range tx.touched {
		err := tx.writeCopy(id, namesOf(id, tags), namesOf(id, digests), update)
		if errors.Is(err, ErrNoSuchImage) {
			tx.trashFiles = append(tx.trashFiles, tx.store.imageCopy(id))
			continue
		}
		if err != nil {
			return fmt.Errorf("keep a copy of an image's record: %w", err)
		}
	}
	return nil
}

// namesOf are those of the names that an image has, sorted.
func namesOf(id string, names map[string]string) []string {
	var list []string
	for name, of := range names {
		if of == id {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

func (tx *Tx) writeCopy(id string, tags, digests []string, update uint64) error {
	image, err := tx.Image(id)
	if err != nil {
		return err
	}
	c := imageCopy{Update: update, Image: image, Tags: tags, Digests: digests}
	if c.Chain, err = tx.Chain(image.Top); err != nil {
		return err
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return WriteFile(tx.store.imageCopy(id), raw)
}

func (s *Store) imageCopy(id string) string { return s.Path(imagesName, id+copySuffix) }

// writeContainerCopy keeps the record of a container in its directory. It is not
// synced, which would cost each start of a container a millisecond: it counts when
// the database is damaged, and is then lost only if the power failed, too.
func (tx *Tx) writeContainerCopy(c Container) error {
	copied := containerCopy{Container: c}
	var err error
	if copied.Chain, err = tx.Chain(c.Top); err != nil {
		return err
	}
	raw, err := json.Marshal(copied)
	if err != nil {
		return err
	}
	name := filepath.Join(tx.store.ContainerDir(c.ID), recordName)
	if err := os.WriteFile(name+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// sweepCopies removes copies of images that are not there, and has those written
// that are missing, as in a store of an older varve.
func (tx *Tx) sweepCopies() error {
	images, err := tx.Images()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, i := range images {
		known[i.ID+copySuffix] = true
		if ok, err := exists(tx.store.imageCopy(i.ID)); err != nil || !ok {
			tx.touch(i.ID)
		}
	}
	list, err := os.ReadDir(tx.store.Path(imagesName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sweep: %w", err)
	}
	for _, e := range list {
		if !known[e.Name()] {
			tx.trashFiles = append(tx.trashFiles, tx.store.Path(imagesName, e.Name()))
		}
	}
	containers, err := tx.Containers()
	for _, c := range containers {
		if ok, err := exists(filepath.Join(tx.store.ContainerDir(c.ID), recordName)); err == nil && !ok {
			if err := tx.writeContainerCopy(c); err != nil {
				return fmt.Errorf("keep a copy of a container's record: %w", err)
			}
		}
	}
	return err
}

// readCopies reads all copies that are whole. What is wrong with the others is in
// damaged, a sentence each.
func (s *Store) readCopies() (images []imageCopy, containers []containerCopy, damaged []string) {
	for _, name := range s.list(imagesName) {
		id, isCopy := strings.CutSuffix(name, copySuffix)
		if !isCopy {
			continue
		}
		var c imageCopy
		err := readJSON(s.Path(imagesName, name), &c)
		if err == nil {
			err = c.check(id)
		}
		if err != nil {
			damaged = append(damaged, fmt.Sprintf("the copy of image %.12s: %v", id, err))
			continue
		}
		images = append(images, c)
	}
	for _, id := range s.list(layout.ContainersName) {
		var c containerCopy
		err := readJSON(s.Path(layout.ContainersName, id, recordName), &c)
		c.Container.ID = id
		if err == nil {
			err = sealChain(c.Chain, c.Container.Top)
		}
		if err != nil {
			damaged = append(damaged, fmt.Sprintf("the copy of container %.12s: %v", id, err))
			continue
		}
		containers = append(containers, c)
	}
	return images, containers, damaged
}

// list returns the names in a directory of the store, none if it is not there.
func (s *Store) list(dir string) []string {
	list, err := os.ReadDir(s.Path(dir))
	if err != nil {
		return nil // what cannot be read is not found, and then told as lost
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func readJSON(name string, out any) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

// check tells whether a copy is of the image id, and consistent.
func (c *imageCopy) check(id string) error {
	c.Image.Seal()
	if c.Image.ID != id {
		return fmt.Errorf("it is of the image %.12s", c.Image.ID)
	}
	return sealChain(c.Chain, c.Image.Top)
}

// sealChain gives the layers of a chain, top first, their IDs, and fails if they are
// not those of the chain of top.
func sealChain(chain []Layer, top string) error {
	want := top
	for i := range chain {
		if err := chain[i].Seal(); err != nil {
			return err
		}
		if chain[i].ID != want {
			return fmt.Errorf("its layer %.12s is not there", want)
		}
		want = chain[i].Parent
	}
	if want != "" {
		return fmt.Errorf("its layer %.12s is not there", want)
	}
	return nil
}
