package layerdb

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"golang.org/x/sys/unix"
)

// badgerOptions are the small options of a database that is opened for one
// transaction: no caches, no compression, little memory. MemTableSize bounds a
// transaction to 15 % of itself, 600 KiB, and so the size of one record.
func (s *Store) badgerOptions() badger.Options {
	opt := badger.DefaultOptions(s.Path(dbName))
	opt.Logger = nil
	opt.MetricsEnabled = false
	opt.SyncWrites = true
	opt.NumVersionsToKeep = 1
	opt.MemTableSize = 4 << 20
	opt.NumMemtables = 2
	opt.ValueLogFileSize = 1 << 20
	opt.ValueThreshold = 512 << 10
	opt.Compression = options.None
	opt.BlockCacheSize = 0
	opt.IndexCacheSize = 0
	opt.NumCompactors = 0 // see mergeAt
	opt.NumLevelZeroTablesStall = math.MaxInt
	opt.NumGoroutines = 1
	opt.DetectConflicts = false // store.lock lets in one writer
	return opt
}

// createDB makes an empty database, so that readers never have to.
func (s *Store) createDB() error {
	if err := makeDiscard(s.Path(dbName)); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	db, err := badger.Open(s.badgerOptions())
	if err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	return nil
}

// fewBytes bounds what the transaction of UpdateFew writes.
const fewBytes = 64 << 10

// few makes the options those of a transaction that writes little. badger maps a log
// of twice MemTableSize and touches its first page, whereupon the kernel reads ahead:
// with large read-ahead, as disks of virtual machines have, it fills all of the log
// with zeros, which took 4 ms of a start.
func few(opt badger.Options) badger.Options {
	opt.MemTableSize = 512 << 10
	opt.ValueThreshold = fewBytes // not more than 15 % of MemTableSize
	return opt
}

// Update runs fn in one transaction that may change the records, alone in the
// store. If fn fails nothing is changed. When Update returns nil the change is
// durable. fn should be short: other processes wait.
func (s *Store) Update(fn func(*Tx) error) error { return s.update(fn, s.badgerOptions()) }

// UpdateFew is Update, cheaper, for an fn that writes at most 64 KiB of records.
func (s *Store) UpdateFew(fn func(*Tx) error) error { return s.update(fn, few(s.badgerOptions())) }

func (s *Store) update(fn func(*Tx) error, opt badger.Options) error {
	if s.opt.ReadOnly {
		return fmt.Errorf("store %s: %w", s.Root(), ErrReadOnly)
	}
	lock, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	s.hook("update: locked")
	tx := &Tx{store: s, write: true}
	err = s.updateLocked(lock, tx, fn, opt)
	trash, trashErr := s.collectTrash(tx)
	lock.release()
	s.hook("update: unlocked")
	return errors.Join(err, trashErr, discardAll(trash), discardAll(tx.spare))
}

// updateLocked does what Update says. Preconditions: store.lock is held alone.
func (s *Store) updateLocked(lock *storeLock, tx *Tx, fn func(*Tx) error, opt badger.Options) error {
	if err := s.checkSpace(); err != nil {
		return err
	}
	db, err := s.openForWriting(opt)
	if err != nil {
		return err
	}
	s.hook("update: opened")
	err = db.Update(func(txn *badger.Txn) error {
		tx.txn = txn
		if err := tx.do(fn); err != nil {
			return err
		}
		s.hook("update: changed")
		err := tx.mark()
		tx.tried = err == nil
		return err
	})
	if err == nil {
		tx.committed = true
		s.noteUpdates(tx.number)
		s.hook("update: committed")
		tx.runAfter()
	}
	var all []pair
	if err == nil && s.hasManyTables() {
		all, _ = pairs(db.DB) // it may fail, as merge may
	}
	err = errors.Join(err, s.close(db, lock))
	s.hook("update: closed")
	if err == nil && all != nil {
		_ = s.merge(all, lock) // the change is made, and durable
	}
	return err
}

func (s *Store) openForWriting(opt badger.Options) (*database, error) {
	if err := s.verifyDB(s.Path(dbName)); err != nil {
		return nil, s.damaged(err)
	}
	leftover, err := s.dropUnborn()
	if err = errors.Join(err, makeDiscard(s.Path(dbName))); err != nil {
		return nil, err
	}
	if leftover { // it may hold more than a transaction of few
		opt = s.badgerOptions()
	}
	log := make(stuckLog, 1)
	opt.Logger = log
	db, err := badger.Open(opt)
	if err != nil {
		return nil, s.unopened(err)
	}
	return &database{db, log}, nil
}

// makeDiscard makes the file that badger, in a database that it opens to write, would
// end the process for if it can not be opened or made.
func makeDiscard(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "DISCARD"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() == 0 {
		err = f.Truncate(1 << 20)
	}
	return errors.Join(err, f.Close())
}

// dropUnborn removes what a process that was killed had made and not given its size
// yet: a log of nothing, which badger refuses for good. Nobody else has the database
// open. leftover is that a log of changes is there, as after a kill.
func (s *Store) dropUnborn() (leftover bool, err error) {
	list, err := os.ReadDir(s.Path(dbName))
	if err != nil {
		return false, s.damaged(err)
	}
	for _, e := range list {
		isLog := strings.HasSuffix(e.Name(), ".mem") || strings.HasSuffix(e.Name(), ".vlog")
		if info, err := e.Info(); err == nil && isLog && info.Size() == 0 {
			if err := os.Remove(s.Path(dbName, e.Name())); err != nil {
				return false, err
			}
			continue
		}
		leftover = leftover || strings.HasSuffix(e.Name(), ".mem")
	}
	return leftover, nil
}

// tables counts the table files and their bytes.
func (s *Store) tables() (count int, size int64) {
	list, err := os.ReadDir(s.Path(dbName))
	if err != nil {
		return 0, 0 // opening it will say so
	}
	for _, e := range list {
		if info, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), ".sst") {
			count++
			size += info.Size()
		}
	}
	return count, size
}

// View runs fn in one transaction that only reads. Several processes may read at
// once. What fn gets from the Tx stays valid afterwards; the Tx does not.
func (s *Store) View(fn func(*Tx) error) error {
	return s.view(func(tx *Tx) error { return tx.do(fn) })
}

// view does what View says, also where updates are lost.
func (s *Store) view(fn func(*Tx) error) error {
	lock, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return err
	}
	if err := s.verifyDB(s.Path(dbName)); err != nil {
		lock.release()
		return s.damaged(err)
	}
	opt := s.badgerOptions()
	opt.ReadOnly = true
	db, err := badger.Open(opt)
	if err != nil && !s.opt.ReadOnly {
		lock.release()
		return s.viewAfterCrash(fn)
	}
	defer lock.release()
	if err != nil {
		return s.unopened(err)
	}
	return s.read(&database{DB: db}, lock, fn)
}

// viewAfterCrash reads a database that a dying process left with a torn log,
// which only a writer may truncate.
func (s *Store) viewAfterCrash(fn func(*Tx) error) error {
	lock, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.release()
	if err := s.checkSpace(); err != nil {
		return err
	}
	db, err := s.openForWriting(s.badgerOptions())
	if err != nil {
		return err
	}
	return s.read(db, lock, fn)
}

func (s *Store) read(db *database, lock *storeLock, fn func(*Tx) error) error {
	err := db.View(func(txn *badger.Txn) error { return fn(&Tx{store: s, txn: txn}) })
	return errors.Join(err, s.close(db, lock))
}

// unopened is the error of a database that badger does not open: the disk's, which a
// repair does not mend, or that of damage. badger keeps only the text of an error.
func (s *Store) unopened(err error) error {
	for _, errno := range []syscall.Errno{unix.EIO, unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EACCES, unix.EPERM, unix.EMFILE} {
		if strings.Contains(err.Error(), ": "+errno.Error()) {
			return fmt.Errorf("store %s: open the database: %w", s.Root(), err)
		}
	}
	return s.damaged(err)
}

// damaged is the error of a database that can not be opened.
func (s *Store) damaged(err error) error {
	return fmt.Errorf("store %s: open the database: %w: %w; 'varve system check --repair' makes it again from what lies beside it", s.Root(), ErrDamaged, err)
}
