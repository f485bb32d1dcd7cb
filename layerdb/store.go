package layerdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
)

// version is what the file "version" of a store says. It changes when an older
// varve could no longer read the store.
const version = "varve store 1\n"

// The names in the root of a store.
const (
	versionName = "version"
	lockName    = "store.lock"
	dbName      = "db"
)

// Options say how a store is opened. The zero value opens it for reading and
// writing and waits up to 30 seconds for other processes.
type Options struct {
	// LockTimeout bounds each wait for store.lock; 0 is 30 seconds.
	LockTimeout time.Duration
	// ReadOnly makes nothing, not even an absent store, and refuses Update.
	ReadOnly bool
	// Single tells, when a store is made, whether its user has a single id, which is noted in
	// it (layout.SingleName). nil is no.
	Single func() (bool, error)
}

// A Store is a directory of layers, images and containers. It holds no file
// open between calls, and may be used by several goroutines and processes.
type Store struct {
	layout.Dir
	opt Options
	// hook is called at the named points of a change. Only the tests of this
	// package set it, to end the process there.
	hook func(point string)
}

// Open opens the store at root and makes it, mode 0700, if root is absent or
// empty. It fails with ErrOtherVersion, ErrOtherOwner, ErrNotStore or ErrNoSpace
// where it must not go on.
func Open(root string, opt Options) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if opt.LockTimeout == 0 {
		opt.LockTimeout = 30 * time.Second
	}
	s := newStore(root, opt)
	return s, s.prepare()
}

func newStore(root string, opt Options) *Store {
	s := &Store{opt: opt, hook: func(string) {}}
	s.Dir = layout.At(root, func(point string) { s.hook(point) })
	return s
}

// prepare checks that the root is a store of ours, or makes it one.
func (s *Store) prepare() error {
	if !s.opt.ReadOnly {
		if err := os.MkdirAll(s.Root(), 0o700); err != nil {
			return fmt.Errorf("make store: %w", err)
		}
	}
	if err := s.checkOwner(); err != nil {
		return err
	}
	err := s.checkVersion()
	if !errors.Is(err, fs.ErrNotExist) || s.opt.ReadOnly {
		return err
	}
	return s.create()
}

func (s *Store) checkOwner() error {
	var st unix.Stat_t
	if err := at.Stat(at.CWD, s.Root(), &st); err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("store %s: %w: it belongs to uid %d and you are uid %d; name a store of your own with --root or $VARVE_ROOT",
			s.Root(), ErrOtherOwner, st.Uid, os.Geteuid())
	}
	return nil
}

func (s *Store) checkVersion() error {
	got, err := os.ReadFile(s.Path(versionName))
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	if string(got) != version {
		return fmt.Errorf("store %s: %w: it says %.40q, this varve reads %q; use that version, or another --root",
			s.Root(), ErrOtherVersion, got, version)
	}
	return nil
}

// create makes the layout. The version file comes last, so a store that has one
// is whole, and one that has none may be made again over what a crash left.
func (s *Store) create() error {
	if err := s.checkStranger(); err != nil {
		return err
	}
	if err := s.checkSpace(); err != nil {
		return err
	}
	lock, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.release()
	if err := s.checkVersion(); !errors.Is(err, fs.ErrNotExist) {
		return err // another process has just made it
	}
	for _, dir := range []string{dbName, layout.LayersName, layout.ContainersName, layout.TmpName} {
		if err := os.Mkdir(s.Path(dir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make store: %w", err)
		}
	}
	s.hook("create: directories")
	if err := s.createDB(); err != nil {
		return err
	}
	s.hook("create: database")
	if err := s.noteSingle(); err != nil {
		return err
	}
	return s.writeVersion()
}

// noteSingle notes which kind of store this is.
func (s *Store) noteSingle() error {
	if s.opt.Single == nil {
		return nil
	}
	single, err := s.opt.Single()
	if err != nil || !single {
		return err
	}
	const text = "This store was begun by a user with a single id, and stays one of that kind: here files stand for links and devices.\n"
	if err = os.WriteFile(s.Path(layout.SingleName), []byte(text), 0o600); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	return nil
}

// checkStranger refuses to build a store among files that are not a store's.
func (s *Store) checkStranger() error {
	list, err := os.ReadDir(s.Root())
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	ours := []string{lockName, dbName, layout.LayersName, layout.ChainsName, imagesName, layout.ContainersName, lostName, namesName, layout.StageName, layout.TmpName, layout.SingleName, updatesName, versionName, versionName + ".new"}
	for _, e := range list {
		if !slices.Contains(ours, e.Name()) {
			return fmt.Errorf("%s: %w: it has %q; name an empty or absent directory", s.Root(), ErrNotStore, e.Name())
		}
	}
	return nil
}

func (s *Store) writeVersion() error {
	name := s.Path(versionName)
	if err := WriteFile(name, []byte(version)); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	return nil
}

// WriteFile puts data, durably and whole or not at all, in the place of name: it
// is written beside, synced, and renamed. The mode is 0600.
func WriteFile(name string, data []byte) error {
	beside := name + ".new"
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(beside, name)
	}
	if err != nil {
		return err
	}
	return layout.SyncDir(filepath.Dir(name))
}

// syncFile makes a file and its name durable.
func syncFile(name string) error {
	return errors.Join(layout.SyncDir(name), layout.SyncDir(filepath.Dir(name)))
}
