package layerdb

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// flip changes one byte of a file of the database after another, and prints what a
// reader then sees: "same", "damaged", or what it says instead. It is the work of a
// process of its own, which some damage may end.
func flip(s *Store, arg string) error {
	var file, pristine string
	var from, upto, step int
	if _, err := fmt.Sscan(arg, &file, &pristine, &from, &upto, &step); err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(pristine, file))
	if err != nil {
		return err
	}
	noted := s.notedUpdates()
	defer s.noteUpdates(noted)
	want, err := s.pristine(pristine)
	if err != nil {
		return err
	}
	for i := from; i < upto; i += step {
		fmt.Println("at", i)
		err := errors.Join(os.RemoveAll(s.Path(dbName)), os.CopyFS(s.Path(dbName), os.DirFS(pristine)))
		raw[i] ^= 0x55
		err = errors.Join(err, os.WriteFile(s.Path(dbName, file), raw, 0o600))
		raw[i] ^= 0x55
		s.noteUpdates(noted)
		if err != nil {
			return err
		}
		got, err := s.says()
		if updateErr := s.Update(func(*Tx) error { return nil }); !errors.Is(updateErr, ErrDamaged) {
			err = errors.Join(err, updateErr)
		}
		switch {
		case errors.Is(err, ErrDamaged):
			fmt.Println("damaged")
		case err != nil:
			fmt.Println("error", err)
		case got == want:
			fmt.Println("same")
		default:
			fmt.Println("another")
		}
	}
	return nil
}

// pristine puts back the database, and is what it says.
func (s *Store) pristine(db string) (string, error) {
	if err := errors.Join(os.RemoveAll(s.Path(dbName)), os.CopyFS(s.Path(dbName), os.DirFS(db))); err != nil {
		return "", err
	}
	return s.says()
}

// says is all that a reader is told.
func (s *Store) says() (text string, err error) {
	err = s.View(func(tx *Tx) error {
		r := newRecords()
		err := r.read(tx)
		text = fmt.Sprint(r)
		return err
	})
	return text, err
}

// TestFlippedByte: whatever byte of the database is another, who reads it sees what
// was there, or is told that it is damaged. The last change is still in the log.
func TestFlippedByte(t *testing.T) {
	s := openStore(t)
	fill(t, s)
	require.Error(t, process(t, s.Root(), "change-whole", "update: committed").Run())
	pristine := t.TempDir()
	require.NoError(t, os.CopyFS(pristine, os.DirFS(s.Path(dbName))))
	list, err := os.ReadDir(pristine)
	require.NoError(t, err)
	kinds := map[string]bool{}
	for _, file := range list {
		info, err := file.Info()
		require.NoError(t, err)
		kinds[filepath.Ext(file.Name())] = true
		upto := int(min(info.Size(), 4096)) // what comes after that in a log or in DISCARD is empty
		flipAll(t, s, file.Name(), pristine, upto, max(1, upto/16))
	}
	require.Subset(t, kinds, map[string]bool{".sst": true, ".mem": true, ".vlog": true}, "there is something of each kind")
}

func flipAll(t *testing.T, s *Store, file, pristine string, upto, step int) {
	t.Helper()
	out, err := process(t, s.Root(), fmt.Sprintf("flip %s %s 0 %d %d", file, pristine, upto, step), "").CombinedOutput()
	require.NoError(t, err, "%s: %s", file, out)
	at := ""
	for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
		switch text := lines.Text(); {
		case strings.HasPrefix(text, "at "):
			at = text
		default:
			require.Contains(t, []string{"same", "damaged"}, text, "%s %s", file, at)
		}
	}
}

// TestEveryByteOfATable: one that is another, or not there, is seen.
func TestEveryByteOfATable(t *testing.T) {
	s := openStore(t)
	fill(t, s)
	tables, err := filepath.Glob(s.Path(dbName, "*.sst"))
	require.NoError(t, err)
	require.NotEmpty(t, tables)
	for _, name := range tables {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, verifyTable(data, 1))
		for i := range data {
			data[i] ^= 0x55
			require.Error(t, verifyTable(data, 1), "%s: byte %d of %d", name, i, len(data))
			data[i] ^= 0x55
			require.Error(t, verifyTable(data[:i], 1), "%s: cut at %d of %d", name, i, len(data))
		}
	}
}

// TestDatabasePutBack: with a database of before the last change, which has removed
// names and an image whose layers others have, nobody is shown an older state, and a
// repair does not bring it back.
func TestDatabasePutBack(t *testing.T) {
	s := openStore(t)
	_, images := fill(t, s)
	old := t.TempDir()
	require.NoError(t, os.CopyFS(old, os.DirFS(s.Path(dbName))))
	require.NoError(t, s.Update(func(tx *Tx) error {
		return errors.Join(tx.DeleteTag("docker.io/library/also:2"), tx.DeleteImage(images[0].ID))
	}))
	want := dump(t, s)
	_, err := s.pristine(old)
	require.ErrorIs(t, err, ErrDamaged)
	require.ErrorIs(t, s.Update(func(*Tx) error { return nil }), ErrDamaged)
	require.ErrorIs(t, s.Sweep(), ErrDamaged)
	require.NoError(t, probe(t, s), "it can be read")
	done, err := s.Repair(nil)
	require.NoError(t, err)
	require.ErrorIs(t, done.Damage, errLost)
	require.Empty(t, done.Lost)
	require.Equal(t, want, dump(t, s))
}

// TestUnreadableTable: what the disk does not give is damage, too.
func TestUnreadableTable(t *testing.T) {
	s := openStore(t)
	fill(t, s)
	tables, err := filepath.Glob(s.Path(dbName, "*.sst"))
	require.NoError(t, err)
	require.NoError(t, os.Remove(tables[0]))
	require.NoError(t, os.Mkdir(tables[0], 0o700)) // EISDIR, as EIO would be
	_, err = s.says()
	require.ErrorIs(t, err, ErrDamaged)
	require.ErrorContains(t, err, "is a directory")
}
