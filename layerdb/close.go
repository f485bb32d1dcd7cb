package layerdb

import (
	"fmt"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// database is an open badger, with what it says of itself.
type database struct {
	*badger.DB
	log stuckLog // nil for one that only reads: it writes nothing that could fail
}

// close closes the database. Where its table can not be written, as on a disk that
// answers EIO, badger tries again each second and never returns; then close fails
// at once, and store.lock is let go only when badger has come to an end, or the
// process has. What was committed is safe in the log, from which the next process
// to open the database takes it.
func (s *Store) close(db *database, lock *storeLock) error {
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = db.Close()
	}()
	select {
	case <-done:
	case text := <-db.log:
		lock.until = done
		return fmt.Errorf("store %s: close: %s", s.Root(), text)
	}
	if err != nil {
		return fmt.Errorf("store %s: close: %w", s.Root(), err)
	}
	return nil
}

// stuckLog is badger's log. It keeps only the first word of a table that can not be
// written, for which badger has no other way to say so.
type stuckLog chan string

// Errorf keeps the message if it tells of a table that is tried again.
func (l stuckLog) Errorf(format string, args ...any) {
	text, found := strings.CutSuffix(fmt.Sprintf(format, args...), ", retrying")
	if !found {
		return
	}
	select {
	case l <- text:
	default: // one is enough
	}
}

// Warningf drops the message, as do Infof and Debugf: what matters comes as an error.
func (l stuckLog) Warningf(string, ...any) {}

// Infof drops the message.
func (l stuckLog) Infof(string, ...any) {}

// Debugf drops the message.
func (l stuckLog) Debugf(string, ...any) {}
