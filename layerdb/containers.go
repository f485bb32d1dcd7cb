package layerdb

import (
	"fmt"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
)

// PutContainer records a container whose directory was published. A name that
// another container has gives ErrNameInUse.
func (tx *Tx) PutContainer(c Container) error {
	if err := tx.checkName(c); err != nil {
		return err
	}
	ok, err := exists(tx.store.ContainerDir(c.ID))
	if err != nil {
		return fmt.Errorf("put container %s: %w", c.ID, err)
	}
	if !ok {
		return fmt.Errorf("put container %s: %w", c.ID, ErrNoBytes)
	}
	if _, err := tx.Layer(c.Top); err != nil {
		return fmt.Errorf("put container: %w", err)
	}
	if err := tx.writeContainerCopy(c); err != nil {
		return fmt.Errorf("put container %s: %w", c.ID, err)
	}
	if err := tx.set(nameKey+c.Name, []byte(c.ID)); err != nil {
		return err
	}
	tx.AfterCommit(func() { tx.store.hint(c.Name, c.ID) })
	return putJSON(tx, containerKey+c.ID, &c)
}

// RenameContainer gives a container a name that no other one has.
func (tx *Tx) RenameContainer(id, name string) error {
	c, err := tx.Container(id)
	if err != nil {
		return err
	}
	old := c.Name
	if name == old {
		return fmt.Errorf("rename container: %s has that name already", old)
	}
	c.Name = name
	if err := tx.PutContainer(c); err != nil {
		return err
	}
	// Durable, unlike the copy of a new container: after a power failure it would
	// still say the old name, and a glance believe it.
	if err := syncFile(filepath.Join(tx.store.ContainerDir(id), recordName)); err != nil {
		return fmt.Errorf("rename container: %w", err)
	}
	tx.AfterCommit(func() { tx.store.dropHint(old, id) })
	return tx.remove(nameKey + old)
}

// checkName fails with ErrNameInUse if another container has the name of c. It
// takes the name from one that is void.
func (tx *Tx) checkName(c Container) error {
	raw, err := tx.get(nameKey + c.Name)
	if err != nil || raw == nil || string(raw) == c.ID {
		return err
	}
	other := string(raw)
	ok, err := exists(tx.store.ContainerDir(other))
	if err != nil {
		return fmt.Errorf("put container: %w", err)
	}
	if !ok {
		return tx.deleteRecord(Container{ID: other, Name: c.Name})
	}
	return fmt.Errorf("%w %q is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name",
		ErrNameInUse, "/"+c.Name, other)
}

// Container returns the container with this full ID, or ErrNoSuchContainer.
func (tx *Tx) Container(id string) (Container, error) {
	c, ok, err := getJSON[Container](tx, containerKey+id)
	c.ID = id
	if err == nil && ok {
		ok, err = exists(tx.store.ContainerDir(id))
	}
	if err == nil && !ok {
		err = fmt.Errorf("%w: %s", ErrNoSuchContainer, id)
	}
	return c, err
}

// Containers returns all containers in the order of their IDs.
func (tx *Tx) Containers() ([]Container, error) {
	all, err := tx.records()
	if err != nil {
		return nil, err
	}
	list := all[:0]
	for _, c := range all {
		ok, err := exists(tx.store.ContainerDir(c.ID))
		if err != nil {
			return nil, fmt.Errorf("list containers: %w", err)
		}
		if ok {
			list = append(list, c)
		}
	}
	return list, nil
}

// records returns all container records, void ones too.
func (tx *Tx) records() ([]Container, error) {
	return listJSON(tx, containerKey, func(c *Container, id string) { c.ID = id })
}

// DeleteContainer forgets the container; its directory is removed after the
// transaction.
func (tx *Tx) DeleteContainer(id string) error {
	c, err := tx.Container(id)
	if err != nil {
		return err
	}
	tx.trash = append(tx.trash, tx.store.ContainerDir(id))
	return tx.deleteRecord(c)
}

func (tx *Tx) deleteRecord(c Container) error {
	tx.AfterCommit(func() { tx.store.dropHint(c.Name, c.ID) })
	if err := tx.remove(containerKey + c.ID); err != nil {
		return err
	}
	holder, err := tx.get(nameKey + c.Name)
	if err != nil || string(holder) != c.ID {
		return err
	}
	return tx.remove(nameKey + c.Name)
}

// mostVoid bounds how many void records one update drops, as a transaction may not be
// too big: each is two keys of less than 200 bytes.
const mostVoid = 50

// dropVoid forgets containers whose directory is gone.
func (tx *Tx) dropVoid() error {
	ids, err := tx.containerIDs()
	if err != nil {
		return err
	}
	dropped := 0
	for _, id := range ids {
		if dropped == mostVoid {
			return nil // the next update goes on
		}
		ok, err := exists(tx.store.ContainerDir(id))
		if err != nil {
			return fmt.Errorf("drop void containers: %w", err)
		}
		if ok {
			continue
		}
		c, _, err := getJSON[Container](tx, containerKey+id)
		if err != nil {
			return err
		}
		c.ID = id
		if err := tx.deleteRecord(c); err != nil {
			return err
		}
		dropped++
	}
	return nil
}

func (tx *Tx) containerIDs() ([]string, error) {
	opt := badger.DefaultIteratorOptions
	opt.PrefetchValues = false
	opt.Prefix = []byte(containerKey)
	it := tx.txn.NewIterator(opt)
	defer it.Close()
	var ids []string
	for it.Rewind(); it.Valid(); it.Next() {
		ids = append(ids, string(it.Item().Key()[len(containerKey):]))
	}
	return ids, nil
}
