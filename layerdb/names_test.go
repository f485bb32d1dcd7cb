package layerdb

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGlance: what a glance finds is what the database finds, whatever lies in names/.
func TestGlance(t *testing.T) {
	s := openStore(t)
	first := Container{ID: strings.Repeat("c", 64), Name: "first", Created: day, Command: []string{"sh"}}
	second := Container{ID: strings.Repeat("d", 64), Name: "second", Created: day}
	require.NoError(t, s.Update(func(tx *Tx) error {
		l := stageLayer(t, s, tx, nil, "l")
		first.Top, second.Top = l.ID, l.ID
		require.NoError(t, stageContainer(t, s, tx, first))
		return stageContainer(t, s, tx, second)
	}))
	finds := func(name string, want *Container) {
		t.Helper()
		got, found := s.GlanceContainer(name)
		require.Equal(t, want != nil, found)
		if found {
			require.Equal(t, *want, got)
		}
	}
	finds("first", &first)
	finds("/first", &first)
	finds(first.ID, &first)
	for _, name := range []string{"", "/", ".", "..", "no", "first/", "../names/first", first.ID[:12], strings.Repeat("e", 64)} {
		finds(name, nil)
	}

	rename := func(to string, fail error) error {
		return s.Update(func(tx *Tx) error { return errors.Join(tx.RenameContainer(first.ID, to), fail) })
	}
	failed := errors.New("failed")
	require.ErrorIs(t, rename("third", failed), failed)
	finds("third", nil)
	require.NoError(t, rename("third", nil))
	finds("first", nil)
	first.Name = "third"
	finds("third", &first)
	finds(first.ID, &first)

	// A link of before, and one that leads out.
	require.NoError(t, os.Symlink(first.ID, s.Path(namesName, "first")))
	require.NoError(t, os.Symlink("../../etc", s.Path(namesName, "etc")))
	finds("first", nil)
	finds("etc", nil)

	// A name is given again when its first holder has gone.
	require.NoError(t, s.RemoveContainer(first.ID))
	finds("third", nil)
	require.NoError(t, s.Update(func(tx *Tx) error { return tx.RenameContainer(second.ID, "third") }))
	second.Name = "third"
	finds("third", &second)
	require.NoError(t, s.Update(func(tx *Tx) error { return tx.DeleteContainer(second.ID) }))
	finds("third", nil)
	require.Equal(t, []string{"etc", "first"}, names(t, s.Path(namesName)), "only what is not ours is left")
}
