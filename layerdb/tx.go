package layerdb

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/varvefs/varve/internal/layout"
)

// The key spaces. Names, tags and digests hold an ID as it is, all others JSON.
const (
	layerKey     = "layer/"
	imageKey     = "image/"
	tagKey       = "tag/"
	digestKey    = "digest/" // a repository and a digest, to an image's ID
	originKey    = "origin/" // a diff ID, to the origins of the layer
	containerKey = "container/"
	nameKey      = "name/" // a container's name, to its ID
)

// Every update writes the two keys that stand before and after all others. So
// every table spans the whole key space, all of them overlap, and badger merges
// them into one; it would keep a table an update apart for ever otherwise. Their
// value counts the updates.
const (
	firstKey = "!"
	lastKey  = "~"
)

// A Tx is one transaction, valid inside the function it is given to, for one
// goroutine.
type Tx struct {
	store *Store
	txn   *badger.Txn
	write bool

	// tried: the commit was asked for, and is durable or not, whatever it answers.
	// committed: it is durable.
	tried, committed bool

	number     uint64 // of the update, when it ends
	after      []func()
	published  []string        // directories moved into place by this transaction
	trash      []string        // directories to move away after it
	trashFiles []string        // files to remove after it
	spare      []*layout.Stage // stages whose place was taken already
	touched    map[string]bool // images whose copy is to be written or removed
}

// AfterCommit has fn called when the change is durable, while the database is
// still being closed. fn must return at once: it holds up other processes.
func (tx *Tx) AfterCommit(fn func()) { tx.after = append(tx.after, fn) }

func (tx *Tx) runAfter() {
	for _, fn := range tx.after {
		fn()
	}
}

// mark ends an update: it drops void records, writes the copies of what was changed
// and the two outer keys.
func (tx *Tx) mark() error {
	if err := tx.dropVoid(); err != nil {
		return err
	}
	count, err := tx.count()
	if err != nil {
		return err
	}
	if err := tx.writeCopies(count + 1); err != nil {
		return err
	}
	tx.store.hook("update: copied")
	tx.number = count + 1
	raw := binary.BigEndian.AppendUint64(nil, tx.number)
	return errors.Join(tx.set(firstKey, raw), tx.set(lastKey, raw))
}

// do calls fn, unless updates are lost.
func (tx *Tx) do(fn func(*Tx) error) error {
	if err := tx.checkCount(); err != nil {
		return err
	}
	return fn(tx)
}

// count is how many updates there were.
func (tx *Tx) count() (uint64, error) {
	raw, err := tx.get(firstKey)
	if err != nil || len(raw) != 8 {
		return 0, err
	}
	return binary.BigEndian.Uint64(raw), nil
}

// get returns the value of key, nil if it is not there.
func (tx *Tx) get(key string) ([]byte, error) {
	item, err := tx.txn.Get([]byte(key))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	raw, err := item.ValueCopy(nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return raw, nil
}

func (tx *Tx) set(key string, value []byte) error {
	if !tx.write {
		return fmt.Errorf("write %s: %w", key, ErrReadOnly)
	}
	if err := tx.txn.Set([]byte(key), value); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

func (tx *Tx) remove(key string) error {
	if !tx.write {
		return fmt.Errorf("delete %s: %w", key, ErrReadOnly)
	}
	if err := tx.txn.Delete([]byte(key)); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// each calls fn with every key that begins with prefix, in the order of the
// keys, without prefix, and its value.
func (tx *Tx) each(prefix string, fn func(rest string, value []byte) error) error {
	opt := badger.DefaultIteratorOptions
	opt.Prefix = []byte(prefix)
	opt.PrefetchValues = false // they are with the keys: it would be copied twice
	it := tx.txn.NewIterator(opt)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		raw, err := it.Item().ValueCopy(nil)
		if err != nil {
			return fmt.Errorf("read %s: %w", it.Item().Key(), err)
		}
		if err := fn(string(it.Item().Key()[len(prefix):]), raw); err != nil {
			return err
		}
	}
	return nil
}

func putJSON(tx *Tx, key string, record any) error {
	raw, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return tx.set(key, raw)
}

// getJSON reads the record at key; found is false if there is none.
func getJSON[T any](tx *Tx, key string) (record T, found bool, err error) {
	raw, err := tx.get(key)
	if err != nil || raw == nil {
		return record, false, err
	}
	if err := json.Unmarshal(raw, &record); err != nil {
		return record, false, fmt.Errorf("read %s: %w", key, err)
	}
	return record, true, nil
}

// listJSON reads all records whose key begins with prefix; setID gives each the
// rest of its key. Many are decoded on all processors.
func listJSON[T any](tx *Tx, prefix string, setID func(*T, string)) ([]T, error) {
	var keys []string
	var values [][]byte
	err := tx.each(prefix, func(rest string, value []byte) error {
		keys, values = append(keys, rest), append(values, value)
		return nil
	})
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	const least = 64 // that are worth a goroutine
	workers := min(runtime.GOMAXPROCS(0), (len(keys)+least-1)/least)
	list, errs := make([]T, len(keys)), make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w * len(keys) / workers; i < (w+1)*len(keys)/workers; i++ {
				if err := json.Unmarshal(values[i], &list[i]); err != nil {
					errs[w] = fmt.Errorf("read %s: %w", prefix+keys[i], err)
					return
				}
				setID(&list[i], keys[i])
			}
		})
	}
	wg.Wait()
	return list, errors.Join(errs...)
}

// exists tells whether the directory is there.
func exists(dir string) (bool, error) {
	_, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
