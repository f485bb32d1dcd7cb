package layerdb

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// TestTableThatCannotBeWritten: the directory of the database is gone when badger
// wants to write its table, after the commit. Update says so and returns, the store
// stays locked until badger is done, and then record and bytes are both there.
func TestTableThatCannotBeWritten(t *testing.T) {
	s := openStore(t)
	db, away := s.Path(dbName), s.Path(dbName)+".away"
	s.hook = func(point string) {
		if point == "update: committed" {
			require.NoError(t, os.Rename(db, away))
		}
	}
	var l Layer
	err := s.Update(func(tx *Tx) error {
		l = stageLayer(t, s, tx, nil, "l")
		return tx.PutImage(image(l, "i"))
	})
	require.ErrorContains(t, err, "error flushing memtable to disk")
	require.NoError(t, os.Rename(away, db))
	require.DirExists(t, s.LayerDir(l.DiffID), "its record is in the log")

	s.hook = func(string) {}
	images, _ := whole(t, s)
	require.Equal(t, 1, images)
	require.NoError(t, s.Sweep())
	images, _ = whole(t, s)
	require.Equal(t, 1, images)
}

// TestStuckDatabaseIsBusy: who comes while badger still tries is told that the store
// is busy, and not of badger's own lock.
func TestStuckDatabaseIsBusy(t *testing.T) {
	s := openStore(t)
	db, away := s.Path(dbName), s.Path(dbName)+".away"
	s.hook = func(point string) {
		if point == "update: committed" {
			require.NoError(t, os.Rename(db, away))
		}
	}
	require.Error(t, s.Update(func(*Tx) error { return nil }))
	short, err := Open(s.Root(), Options{LockTimeout: 50 * time.Millisecond})
	require.NoError(t, err)
	require.ErrorIs(t, short.View(func(*Tx) error { return nil }), ErrBusy)
	require.NoError(t, os.Rename(away, db))
	require.NoError(t, s.View(func(*Tx) error { return nil }))
}

// TestWriterIsNotStarved: a reader holds the store and others come without end; a
// writer that waits is the next, and the readers that come after it wait.
func TestWriterIsNotStarved(t *testing.T) {
	s := openStore(t)
	first, err := s.lock(unix.LOCK_SH)
	require.NoError(t, err)
	written := make(chan error, 1)
	go func() { written <- s.Update(func(*Tx) error { return nil }) }()
	testenv.Eventually(t, "the writer has the turn", func() bool {
		turn, err := unix.Open(s.Root(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		defer func() { _ = unix.Close(turn) }() // a directory
		return unix.Flock(turn, unix.LOCK_EX|unix.LOCK_NB) == unix.EWOULDBLOCK
	})
	short, err := Open(s.Root(), Options{LockTimeout: 50 * time.Millisecond})
	require.NoError(t, err)
	require.ErrorIs(t, short.View(func(*Tx) error { return nil }), ErrBusy, "a reader would have got in before")
	first.release()
	require.NoError(t, <-written)
}
