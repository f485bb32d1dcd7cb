package layerdb

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/layout"
)

var day = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

func openStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"), Options{})
	require.NoError(t, err)
	return s
}

// stageLayer publishes a layer directory with one file and returns its record.
func stageLayer(t *testing.T, s *Store, tx *Tx, parent *Layer, content string) Layer {
	t.Helper()
	l := Layer{DiffID: digest.FromString(content), Created: day, CreatedBy: content, Size: int64(len(content))}
	l.ChainID = layout.ChainID("", l.DiffID)
	if parent != nil {
		l.Parent, l.ChainID = parent.ID, layout.ChainID(parent.ChainID, l.DiffID)
	}
	require.NoError(t, l.Seal())
	st, err := s.Stage("layer")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(st.Path(), "diff"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(st.Path(), "diff", "file"), []byte(content), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(st.Path(), "tar-split.gz"), nil, 0o600))
	require.NoError(t, tx.Publish(st, s.LayerDir(l.DiffID)))
	require.NoError(t, tx.PutLayer(l))
	return l
}

func stageContainer(t *testing.T, s *Store, tx *Tx, c Container) error {
	t.Helper()
	st, err := s.Stage("container")
	require.NoError(t, err)
	require.NoError(t, tx.Publish(st, s.ContainerDir(c.ID)))
	return tx.PutContainer(c)
}

func image(top Layer, config string) Image {
	i := Image{Top: top.ID, Config: []byte(config), Created: day}
	i.Seal()
	return i
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestOpenMakesAPrivateStoreAndFindsItAgain(t *testing.T) {
	s := openStore(t)
	for _, dir := range []string{"", dbName, layout.LayersName, layout.ContainersName, layout.TmpName} {
		info, err := os.Stat(s.Path(dir))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), info.Mode().Perm(), dir)
	}
	again, err := Open(s.Root(), Options{})
	require.NoError(t, err)
	require.NoError(t, again.View(func(tx *Tx) error {
		list, err := tx.Images()
		require.Empty(t, list)
		return err
	}))
}

func TestOpenRefusesWhatIsNotItsOwn(t *testing.T) {
	t.Run("another version", func(t *testing.T) {
		s := openStore(t)
		require.NoError(t, os.WriteFile(s.Path(versionName), []byte("varve store 99\n"), 0o600))
		_, err := Open(s.Root(), Options{})
		require.ErrorIs(t, err, ErrOtherVersion)
		require.ErrorContains(t, err, "varve store 99")
	})
	t.Run("another owner", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("chown needs root")
		}
		s := openStore(t)
		require.NoError(t, os.Chown(s.Root(), 12345, -1))
		_, err := Open(s.Root(), Options{})
		require.ErrorIs(t, err, ErrOtherOwner)
		require.ErrorContains(t, err, "12345")
	})
	t.Run("a directory with other files", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600))
		_, err := Open(dir, Options{})
		require.ErrorIs(t, err, ErrNotStore)
		require.Equal(t, []string{"thesis.tex"}, names(t, dir))
	})
	t.Run("absent, read-only", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "absent")
		_, err := Open(dir, Options{ReadOnly: true})
		require.ErrorIs(t, err, os.ErrNotExist)
		require.NoDirExists(t, dir)
	})
}

func TestReadOnlyStoreReadsAndRefusesChange(t *testing.T) {
	s := openStore(t)
	ro, err := Open(s.Root(), Options{ReadOnly: true})
	require.NoError(t, err)
	require.NoError(t, ro.View(func(*Tx) error { return nil }))
	require.ErrorIs(t, ro.Update(func(*Tx) error { return nil }), ErrReadOnly)
	_, err = ro.Stage("x")
	require.ErrorIs(t, err, ErrReadOnly)
}

func TestFullDiskIsASentence(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	dir := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=12m,mode=700"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	s, err := Open(dir, Options{})
	require.NoError(t, err)
	require.NoError(t, s.Update(func(tx *Tx) error {
		return stageContainer(t, s, tx, Container{ID: "aa", Name: "n", Top: stageLayer(t, s, tx, nil, "l").ID})
	}))
	require.NoError(t, os.WriteFile(filepath.Join(dir, layout.TmpName, "ballast"), make([]byte, 8<<20), 0o600))
	err = s.Update(func(*Tx) error { t.Fatal("opened on a full disk"); return nil })
	require.ErrorIs(t, err, ErrNoSpace)
	require.ErrorContains(t, err, "MiB needed")
	require.NoError(t, s.View(func(*Tx) error { return nil }), "reading needs no space")
	_, err = Open(filepath.Join(dir, layout.TmpName, "new"), Options{})
	require.ErrorIs(t, err, ErrNoSpace)
	require.NoError(t, s.RemoveContainer("aa"), "and so does removing")
	require.NoDirExists(t, s.ContainerDir("aa"))
}

func TestFailedUpdateChangesNothing(t *testing.T) {
	s := openStore(t)
	boom := os.ErrDeadlineExceeded
	err := s.Update(func(tx *Tx) error {
		stageLayer(t, s, tx, nil, "one")
		return boom
	})
	require.ErrorIs(t, err, boom)
	require.Empty(t, names(t, s.Path(layout.LayersName)), "what was published is taken back")
	require.Empty(t, names(t, s.Path(layout.TmpName)))
	require.NoError(t, s.View(func(tx *Tx) error {
		list, err := tx.Layers()
		require.Empty(t, list)
		return err
	}))
}

func TestRecordsNeedTheirBytes(t *testing.T) {
	s := openStore(t)
	l := Layer{DiffID: digest.FromString("never published")}
	require.NoError(t, l.Seal())
	require.ErrorIs(t, s.Update(func(tx *Tx) error { return tx.PutLayer(l) }), ErrNoBytes)
	require.ErrorIs(t, s.Update(func(tx *Tx) error {
		l := stageLayer(t, s, tx, nil, "base")
		return tx.PutContainer(Container{ID: "c1", Name: "n", Top: l.ID})
	}), ErrNoBytes)
	l.Parent, l.Empty = "0123", true
	require.NoError(t, l.Seal())
	require.ErrorIs(t, s.Update(func(tx *Tx) error { return tx.PutLayer(l) }), ErrNoSuchLayer)
}

func TestViewCannotWrite(t *testing.T) {
	s := openStore(t)
	err := s.View(func(tx *Tx) error { return tx.set("x", nil) })
	require.ErrorIs(t, err, ErrReadOnly)
}

func TestAfterCommitRunsOnceTheChangeIsMade(t *testing.T) {
	s := openStore(t)
	called := 0
	require.NoError(t, s.Update(func(tx *Tx) error { tx.AfterCommit(func() { called++ }); return nil }))
	require.Equal(t, 1, called)
	require.Error(t, s.Update(func(tx *Tx) error { tx.AfterCommit(func() { called++ }); return os.ErrInvalid }))
	require.Equal(t, 1, called, "not after a failure")
}

func TestTablesStayFew(t *testing.T) {
	s := openStore(t)
	for range 3 * mergeAt {
		require.NoError(t, s.Update(func(*Tx) error { return nil }))
	}
	count := 0
	for _, name := range names(t, s.Path(dbName)) {
		if strings.HasSuffix(name, ".sst") {
			count++
		}
	}
	require.LessOrEqual(t, count, mergeAt+1)
}

func BenchmarkView(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "store"), Options{})
	require.NoError(b, err)
	for b.Loop() {
		require.NoError(b, s.View(func(tx *Tx) error { _, err := tx.Images(); return err }))
	}
}

func BenchmarkUpdate(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "store"), Options{})
	require.NoError(b, err)
	for b.Loop() {
		require.NoError(b, s.Update(func(*Tx) error { return nil }))
	}
}
