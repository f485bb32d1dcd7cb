package layerdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
)

// mergeAt is the number of tables from which on an update merges them. Each update
// leaves one small table; a reader opens all of them. Measured: 8 costs the same as
// any number from 4 to 16, and less than merging always.
//
// badger's own merging, compaction, is switched off: where the disk does not let it
// make the new table it forgets the old ones all the same, and all that was in them
// (the error of a goroutine in compactBuildTables is lost).
const mergeAt = 8

// hasManyTables tells whether the next update is to merge them.
func (s *Store) hasManyTables() bool {
	count, size := s.tables()
	// A large database has a table a megabyte or two, whatever one does.
	return count-int(size>>20) >= mergeAt
}

// pair is one record as the database keeps it.
type pair struct{ key, value []byte }

// pairs reads all that is in an open database.
func pairs(db *badger.DB) (list []pair, err error) {
	err = db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			value, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			list = append(list, pair{it.Item().KeyCopy(nil), value})
		}
		return nil
	})
	return list, err
}

// merge puts a database of the same records in the place of the one with many tables.
// It may fail, as on a full disk: then the old one is as it was, and the next update
// tries again. Preconditions: store.lock is held alone, and the database is closed.
func (s *Store) merge(list []pair, lock *storeLock) error {
	stage, err := s.Stage("merge")
	if err != nil {
		return err
	}
	err = s.replaceDB(stage, lock, func(db *badger.DB) error {
		batch := db.NewWriteBatch()
		defer batch.Cancel()
		for _, p := range list {
			if err := batch.Set(p.key, p.value); err != nil {
				return err
			}
		}
		return batch.Flush()
	})
	return errors.Join(err, stage.Discard())
}

// replaceDB has a database of its own filled, and puts it in the place of the old one
// at one stroke. The old one is in the stage then.
// Preconditions: store.lock is held alone, and the database is closed.
func (s *Store) replaceDB(stage *layout.Stage, lock *storeLock, fill func(*badger.DB) error) error {
	fresh := filepath.Join(stage.Path(), dbName)
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	if err := s.fillDB(fresh, lock, fill); err != nil {
		return err
	}
	if err := stage.SyncFiles(dbName); err != nil {
		return err
	}
	how := uint(unix.RENAME_EXCHANGE)
	if ok, err := exists(s.Path(dbName)); err != nil || !ok {
		how = unix.RENAME_NOREPLACE
	}
	if err := at.Rename(at.CWD, fresh, at.CWD, s.Path(dbName), how); err != nil {
		return err
	}
	s.hook("database: replaced")
	return layout.SyncDir(s.Root())
}

// fillDB makes a database in dir and looks at it.
func (s *Store) fillDB(dir string, lock *storeLock, fill func(*badger.DB) error) error {
	opt, log := s.badgerOptions(), make(stuckLog, 1)
	opt.Dir, opt.ValueDir, opt.Logger = dir, dir, log
	if err := makeDiscard(dir); err != nil {
		return err
	}
	db, err := badger.Open(opt)
	if err != nil {
		return err
	}
	err = fill(db)
	if closeErr := s.close(&database{db, log}, lock); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := s.verifyDB(dir); err != nil {
		return fmt.Errorf("the new database: %w", err)
	}
	return nil
}
