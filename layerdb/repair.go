package layerdb

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
)

// Repaired is what [Store.Repair] did.
type Repaired struct {
	// Damage says what was wrong with the database, nil if nothing was.
	Damage error
	// Lost are the things that could not be kept, and damaged copies, a sentence each.
	Lost []string
	// Images and Containers are how many there are now.
	Images, Containers int
}

// Probe reads the whole database. It is for a process of its own: a damaged database
// may end who opens it, for badger panics in goroutines that nobody can catch.
func (s *Store) Probe() error {
	return s.view(func(tx *Tx) error { return newRecords().read(tx) })
}

// Repair makes the database again: from the old one, unless that is damaged or older
// than the copies of records that lie beside it, and then from these, too. damage
// is what [Store.Probe] found, in another process; if it is not nil the old database
// is not opened. Images and containers whose layers have no bytes are dropped, and
// named; the files of such containers are moved to lost/. The old database stays in
// tmp/ until the next sweep.
func (s *Store) Repair(damage error) (Repaired, error) {
	if s.opt.ReadOnly {
		return Repaired{}, fmt.Errorf("store %s: %w", s.Root(), ErrReadOnly)
	}
	lock, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return Repaired{}, err
	}
	done, err := s.repairLocked(damage, lock)
	lock.release()
	if err != nil {
		return done, fmt.Errorf("repair the database: %w", err)
	}
	return done, s.Update((*Tx).refresh)
}

// refresh writes all copies anew.
func (tx *Tx) refresh() error {
	images, err := tx.Images()
	for _, i := range images {
		tx.touch(i.ID)
	}
	return err
}

// records are all records of a database.
type records struct {
	layers     map[string]Layer
	images     map[string]Image
	tags       map[string]string
	digests    map[string]string
	origins    map[string][]Origin // by diff ID; no copy has them, for push can do without
	containers map[string]Container
	count      uint64 // of the updates
}

// repairLocked does what Repair says. Preconditions: store.lock is held alone.
func (s *Store) repairLocked(damage error, lock *storeLock) (Repaired, error) {
	if err := s.checkSpace(); err != nil {
		return Repaired{}, err
	}
	r, done := newRecords(), Repaired{Damage: damage}
	if damage == nil {
		done.Damage = s.salvage(r)
	}
	images, containers, damaged := s.readCopies()
	done.Lost = damaged
	newest, noted := uint64(0), s.notedUpdates()
	for _, c := range images {
		newest = max(newest, c.Update)
	}
	switch {
	case done.Damage != nil:
	case noted > r.count:
		done.Damage = errLost
	case newest > r.count:
		done.Damage = errOlder
	}
	if done.Damage != nil {
		r.forgetRemoved(s, images)
		r.merge(images, containers)
		r.count = max(r.count, newest, noted)
		if err := s.putStrangersAside(r, &done); err != nil {
			return done, err
		}
	}
	lost, err := r.drop(s)
	if err != nil {
		return done, err
	}
	done.Lost = append(done.Lost, lost...)
	done.Images, done.Containers = len(r.images), len(r.containers)
	stage, err := s.Stage("repair")
	if err != nil {
		return done, err
	}
	defer stage.Abandon() // what is in it stays for a look until the next sweep
	return done, s.replaceDB(stage, lock, func(db *badger.DB) error { return r.write(s, db) })
}

func newRecords() *records {
	return &records{
		layers: map[string]Layer{}, images: map[string]Image{}, containers: map[string]Container{},
		tags: map[string]string{}, digests: map[string]string{}, origins: map[string][]Origin{},
	}
}

// salvage reads what can be read of the database.
func (s *Store) salvage(r *records) error {
	if err := s.verifyDB(s.Path(dbName)); err != nil {
		return err
	}
	db, err := badger.Open(s.badgerOptions())
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	err = db.View(func(txn *badger.Txn) error { return r.read(&Tx{store: s, txn: txn}) })
	return errors.Join(err, db.Close())
}

func (r *records) read(tx *Tx) error {
	layers, err := tx.Layers()
	for _, l := range layers {
		r.layers[l.ID] = l
	}
	images, imagesErr := tx.Images()
	for _, i := range images {
		r.images[i.ID] = i
	}
	containers, containersErr := tx.records()
	for _, c := range containers {
		r.containers[c.ID] = c
	}
	tags, tagsErr := tx.Tags()
	maps.Copy(r.tags, tags)
	digests, digestsErr := tx.Digests()
	maps.Copy(r.digests, digests)
	origins, originsErr := tx.allOrigins()
	maps.Copy(r.origins, origins)
	count, countErr := tx.count()
	r.count = count
	return errors.Join(err, imagesErr, containersErr, tagsErr, digestsErr, originsErr, countErr)
}

// forgetRemoved takes out what an older database has and the copies have not: the
// images whose copy went with them, and the names that an image had.
func (r *records) forgetRemoved(s *Store, images []imageCopy) {
	names := s.list(imagesName)
	if ok, err := exists(s.Path(imagesName)); err != nil || !ok { // an older varve kept none
		return
	}
	maps.DeleteFunc(r.images, func(id string, _ Image) bool { return !slices.Contains(names, id+copySuffix) })
	copied := map[string]bool{}
	for _, c := range images {
		copied[c.Image.ID] = true
	}
	ofCopied := func(_, id string) bool { return copied[id] }
	maps.DeleteFunc(r.tags, ofCopied)
	maps.DeleteFunc(r.digests, ofCopied)
}

// merge adds what the copies say. Of two that claim a tag the later one has it.
func (r *records) merge(images []imageCopy, containers []containerCopy) {
	slices.SortFunc(images, func(a, b imageCopy) int { return cmp.Compare(a.Update, b.Update) })
	for _, c := range images {
		r.images[c.Image.ID] = c.Image
		r.add(c.Chain)
		for _, ref := range c.Tags {
			if _, ok := r.tags[ref]; !ok || c.Update >= r.count {
				r.tags[ref] = c.Image.ID
			}
		}
		for _, name := range c.Digests {
			r.digests[name] = c.Image.ID
		}
	}
	for _, c := range containers {
		r.containers[c.Container.ID] = c.Container
		r.add(c.Chain)
	}
}

func (r *records) add(chain []Layer) {
	for _, l := range chain {
		r.layers[l.ID] = l
	}
}

// drop takes out what has no bytes, and the layers that nothing stands on then. It
// returns a sentence for each that somebody may miss.
func (r *records) drop(s *Store) (lost []string, err error) {
	for _, id := range slices.Sorted(maps.Keys(r.images)) {
		if why := r.incomplete(s, r.images[id].Top); why != "" {
			lost = append(lost, fmt.Sprintf("image %s: %s; load or pull it again", r.nameOf(id), why))
			delete(r.images, id)
		}
	}
	gone := func(_, id string) bool { _, ok := r.images[id]; return !ok }
	maps.DeleteFunc(r.tags, gone)
	maps.DeleteFunc(r.digests, gone)
	for _, id := range slices.Sorted(maps.Keys(r.containers)) {
		if ok, err := exists(s.ContainerDir(id)); err == nil && !ok {
			delete(r.containers, id) // it was removed
			continue
		}
		if why := r.incomplete(s, r.containers[id].Top); why != "" {
			if err := s.putAside(id); err != nil {
				return lost, err
			}
			lost = append(lost, fmt.Sprintf("container %s: %s; its own files are in %s", r.containers[id].Name, why, s.Path(lostName, id)))
			delete(r.containers, id)
		}
	}
	r.dropLayers()
	return lost, nil
}

// lostName is the directory for what no record speaks of and only its owner may
// remove: containers whose layers are lost.
const lostName = "lost"

// putAside moves a container's directory to where no sweep comes.
func (s *Store) putAside(id string) error {
	if err := os.Mkdir(s.Path(lostName), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keep the files of a lost container: %w", err)
	}
	if err := at.Rename(at.CWD, s.ContainerDir(id), at.CWD, s.Path(lostName, id), unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("keep the files of a lost container: %w", err)
	}
	return layout.SyncDir(s.Path(lostName))
}

// putStrangersAside keeps the containers that nothing speaks of any more: without the
// database nobody knows whether they are what a crash left.
func (s *Store) putStrangersAside(r *records, done *Repaired) error {
	for _, id := range s.list(layout.ContainersName) {
		if _, ok := r.containers[id]; ok {
			continue
		}
		if err := s.putAside(id); err != nil {
			return err
		}
		done.Lost = append(done.Lost, fmt.Sprintf("container %.12s: its record is lost; its own files are in %s", id, s.Path(lostName, id)))
	}
	return nil
}

// dropLayers takes out the layers that no image and no container reaches.
func (r *records) dropLayers() {
	reached := map[string]Layer{}
	reach := func(top string) {
		for id := top; id != ""; id = r.layers[id].Parent {
			reached[id] = r.layers[id]
		}
	}
	for _, i := range r.images {
		reach(i.Top)
	}
	for _, c := range r.containers {
		reach(c.Top)
	}
	r.layers = reached
	kept := map[string]bool{}
	for _, l := range reached {
		kept[l.DiffID.String()] = true
	}
	maps.DeleteFunc(r.origins, func(diffID string, _ []Origin) bool { return !kept[diffID] })
}

// nameOf is an image as its owner knows it.
func (r *records) nameOf(id string) string {
	for _, ref := range slices.Sorted(maps.Keys(r.tags)) {
		if r.tags[ref] == id {
			return Familiar(ref)
		}
	}
	return id[:min(12, len(id))]
}

// incomplete says what a chain lacks, "" if nothing.
func (r *records) incomplete(s *Store, top string) string {
	for id := top; id != ""; {
		l, ok := r.layers[id]
		if !ok {
			return fmt.Sprintf("the record of its layer %.12s is lost", id)
		}
		if l.hasBytes() {
			if why := s.lacksBytes(l); why != nil {
				return why.Error()
			}
		}
		id = l.Parent
	}
	return ""
}

// lacksBytes tells what of a layer's directory is not there.
func (s *Store) lacksBytes(l Layer) error {
	for name, isDir := range map[string]bool{"diff": true, "tar-split.gz": false} {
		info, err := os.Lstat(filepath.Join(s.LayerDir(l.DiffID), name))
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() != isDir {
			return fmt.Errorf("the files of its layer %s are lost (%s)", l.DiffID, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// maxRepairBatch is how many records one transaction of a repair writes: their sum
// stays far below the 600 KiB that one may have, but for configs, which go alone.
const maxRepairBatch = 100

// write puts all records into an empty database, the layers from the lowest up.
func (r *records) write(s *Store, db *badger.DB) error {
	var steps []func(*Tx) error
	for _, l := range r.layers {
		steps = append(steps, func(tx *Tx) error { return putJSON(tx, layerKey+l.ID, &l) })
	}
	for ref, id := range r.tags {
		steps = append(steps, func(tx *Tx) error { return tx.set(tagKey+ref, []byte(id)) })
	}
	for name, id := range r.digests {
		steps = append(steps, func(tx *Tx) error { return tx.set(digestKey+name, []byte(id)) })
	}
	for diffID, list := range r.origins {
		steps = append(steps, func(tx *Tx) error { return putJSON(tx, originKey+diffID, list) })
	}
	for _, c := range r.containers {
		steps = append(steps, func(tx *Tx) error {
			return errors.Join(putJSON(tx, containerKey+c.ID, &c), tx.set(nameKey+c.Name, []byte(c.ID)))
		})
	}
	batches := slices.Collect(slices.Chunk(steps, maxRepairBatch))
	for _, i := range r.images {
		batches = append(batches, []func(*Tx) error{func(tx *Tx) error { return putJSON(tx, imageKey+i.ID, &i) }})
	}
	raw := binary.BigEndian.AppendUint64(nil, r.count)
	batches = append(batches, []func(*Tx) error{func(tx *Tx) error { return errors.Join(tx.set(firstKey, raw), tx.set(lastKey, raw)) }})
	for _, batch := range batches {
		err := db.Update(func(txn *badger.Txn) error {
			tx := &Tx{store: s, txn: txn, write: true}
			for _, step := range batch {
				if err := step(tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
