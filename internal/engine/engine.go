package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/layerdb"
)

// Engine is a store and what can be done with it. It may be used by several
// goroutines.
type Engine struct {
	container.Place
	store *layerdb.Store
}

// Open opens the store at root, "" for [DefaultRoot], and makes it if it is
// absent.
func Open(root string) (*Engine, error) {
	if root == "" {
		var err error
		if root, err = DefaultRoot(); err != nil {
			return nil, err
		}
	}
	store, err := layerdb.Open(root, layerdb.Options{Single: isSingle})
	if err != nil {
		return nil, err
	}
	return &Engine{container.Place{Dir: store.Dir}, store}, nil
}

// DefaultRoot is where the store is unless --root says otherwise: $VARVE_ROOT,
// else /var/lib/varve for root and $XDG_DATA_HOME/varve for others.
func DefaultRoot() (string, error) {
	if root := os.Getenv("VARVE_ROOT"); root != "" {
		return root, nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/varve", nil
	}
	if data := os.Getenv("XDG_DATA_HOME"); data != "" {
		return filepath.Join(data, "varve"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the store: %w; name it with --root or $VARVE_ROOT", err)
	}
	return filepath.Join(home, ".local/share/varve"), nil
}

// update runs fn as one change of the records. Files of other ids that it left in
// tmp/ are removed in the user namespace that owns them.
func (e *Engine) update(fn func(*layerdb.Tx) error) error {
	return e.finish(e.store.Update(fn))
}

// updateFew is update for an fn that writes at most 64 KiB of records.
func (e *Engine) updateFew(fn func(*layerdb.Tx) error) error {
	return e.finish(e.store.UpdateFew(fn))
}

func (e *Engine) finish(err error) error {
	if !errors.Is(err, layout.ErrLeftover) {
		return err
	}
	plan, planErr := planUserns(e.Root())
	if planErr != nil || plan == nil { // nobody else could do better
		return errors.Join(err, planErr)
	}
	code, err := inside(plan, e.Root(), []string{"sweep"})
	if err == nil && code != 0 {
		err = fmt.Errorf("remove leftover files: exit code %d", code)
	}
	return err
}

// Sweep removes what crashed or interrupted commands left in the store.
func (e *Engine) Sweep() error { return e.store.SweepStages() }
