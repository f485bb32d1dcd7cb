package layerdb

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// dump is all that a store says, in lines.
func dump(t *testing.T, s *Store) []string {
	t.Helper()
	var lines []string
	require.NoError(t, s.View(func(tx *Tx) error {
		layers, err := tx.Layers()
		require.NoError(t, err)
		for _, l := range layers {
			lines = append(lines, fmt.Sprintf("%+v", l))
		}
		images, err := tx.Images()
		require.NoError(t, err)
		for _, i := range images {
			lines = append(lines, fmt.Sprintf("%+v", i))
		}
		tags, err := tx.Tags()
		require.NoError(t, err)
		digests, err := tx.Digests()
		require.NoError(t, err)
		lines = append(lines, fmt.Sprint(tags), fmt.Sprint(digests))
		containers, err := tx.Containers()
		require.NoError(t, err)
		for _, c := range containers {
			found, err := tx.FindContainer(c.Name)
			require.NoError(t, err)
			lines = append(lines, fmt.Sprintf("%+v", found))
		}
		return nil
	}))
	return lines
}

// probe looks at the database in another process, as the engine does.
func probe(t *testing.T, s *Store) error {
	t.Helper()
	out, err := process(t, s.Root(), "probe", "").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %.200s", err, out)
	}
	return nil
}

// fill makes three images with a layer in common, tags, and two containers, one of
// an image that is removed.
func fill(t *testing.T, s *Store) (layers []Layer, images []Image) {
	t.Helper()
	require.NoError(t, s.Update(func(tx *Tx) error {
		low := stageLayer(t, s, tx, nil, "low")
		note := Layer{Parent: low.ID, ChainID: low.ChainID, Created: day, CreatedBy: "ENV A=b", Empty: true}
		require.NoError(t, note.Seal())
		require.NoError(t, tx.PutLayer(note))
		left := stageLayer(t, s, tx, &note, "left")
		right := stageLayer(t, s, tx, &low, "right")
		layers = []Layer{low, note, left, right}
		for _, top := range []Layer{low, left, right} {
			i := image(top, `{"of":"`+top.CreatedBy+`"}`)
			images = append(images, i)
			require.NoError(t, tx.PutImage(i))
			require.NoError(t, tx.SetTag("docker.io/library/"+top.CreatedBy+":1", i.ID))
		}
		require.NoError(t, tx.SetTag("docker.io/library/also:2", images[0].ID))
		for n, i := range images[1:] {
			c := Container{ID: strings.Repeat(fmt.Sprint(n), 64), Name: fmt.Sprintf("c-%d", n), ImageID: i.ID, ImageName: "x", Top: i.Top, Created: day, Command: []string{"sh"}}
			require.NoError(t, stageContainer(t, s, tx, c))
		}
		return nil
	}))
	require.NoError(t, s.Update(func(tx *Tx) error {
		require.NoError(t, tx.SetTag("docker.io/library/also:2", images[1].ID), "it moves")
		require.NoError(t, tx.DeleteTag("docker.io/library/low:1"))
		require.NoError(t, tx.DeleteImage(images[2].ID))
		_, _, err := tx.Collect()
		return err
	}))
	return layers, images
}

// TestRepairKeepsDigests: a name by digest was acknowledged, as one by tag.
func TestRepairKeepsDigests(t *testing.T) {
	s := openStore(t)
	_, images := fill(t, s)
	for _, i := range images[:2] {
		require.NoError(t, s.Update(func(tx *Tx) error {
			return tx.SetDigest("docker.io/library/also", digest.FromBytes(i.Config), i.ID)
		}))
	}
	want := dump(t, s)
	_, err := s.Repair(probe(t, s))
	require.NoError(t, err)
	require.Equal(t, want, dump(t, s), "from a good database")
	require.NoError(t, os.RemoveAll(s.Path(dbName)))
	_, err = s.Repair(probe(t, s))
	require.NoError(t, err)
	require.Equal(t, want, dump(t, s), "from the copies")
}

// TestRepairKeepsOrigins of a database that is good.
func TestRepairKeepsOrigins(t *testing.T) {
	s := openStore(t)
	layers, _ := fill(t, s)
	origin := Origin{Repository: "docker.io/library/also", MediaType: "t", Digest: digest.FromString("x"), Size: 1}
	require.NoError(t, s.Update(func(tx *Tx) error { return tx.AddOrigin(layers[0].DiffID, origin) }))
	_, err := s.Repair(probe(t, s))
	require.NoError(t, err)
	require.NoError(t, s.View(func(tx *Tx) error {
		list, err := tx.Origins(layers[0].DiffID)
		require.Equal(t, []Origin{origin}, list)
		return err
	}))
}

// TestRepairWithoutDatabase: all that was acknowledged comes back from the copies.
func TestRepairWithoutDatabase(t *testing.T) {
	s := openStore(t)
	fill(t, s)
	want := dump(t, s)
	for name, spoil := range map[string]func(db string) error{
		"gone":  os.RemoveAll,
		"empty": func(db string) error { return os.RemoveAll(db + "/MANIFEST") },
		"fresh": func(db string) error { return os.Rename(db, db+"-away") },
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, spoil(s.Path(dbName)))
			require.ErrorIs(t, s.Sweep(), ErrDamaged, "what lies beside stays")
			require.ErrorIs(t, s.View(func(*Tx) error { return nil }), ErrDamaged)
			require.ErrorIs(t, s.Update(func(*Tx) error { return nil }), ErrDamaged)
			done, err := s.Repair(probe(t, s))
			require.NoError(t, err)
			require.Error(t, done.Damage)
			require.Empty(t, done.Lost)
			require.Equal(t, 2, done.Images)
			require.Equal(t, 2, done.Containers)
			require.Equal(t, want, dump(t, s))
			require.NoError(t, os.RemoveAll(s.Path(dbName)+"-away"))
			require.NoError(t, s.Sweep())
			require.Equal(t, want, dump(t, s), "nothing is swept that is used")
		})
	}
}

// TestRepairDamage spoils each file of the database, in several ways.
func TestRepairDamage(t *testing.T) {
	s := openStore(t)
	fill(t, s)
	want := dump(t, s)
	pristine := t.TempDir() + "/db"
	require.NoError(t, os.CopyFS(pristine, os.DirFS(s.Path(dbName))))
	list, err := os.ReadDir(pristine)
	require.NoError(t, err)
	for _, file := range list {
		for how, spoil := range map[string]func(raw []byte) []byte{
			"cut":     func(raw []byte) []byte { return raw[:len(raw)/2] },
			"zeros":   func(raw []byte) []byte { return make([]byte, len(raw)) },
			"flipped": func(raw []byte) []byte { raw[len(raw)/3] ^= 0xff; return raw },
			"nothing": func([]byte) []byte { return nil },
		} {
			require.NoError(t, os.RemoveAll(s.Path(dbName)))
			require.NoError(t, os.CopyFS(s.Path(dbName), os.DirFS(pristine)))
			name := filepath.Join(s.Path(dbName), file.Name())
			raw, err := os.ReadFile(name)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(name, spoil(raw), 0o600))
			done, err := s.Repair(probe(t, s))
			require.NoError(t, err, "%s %s", file.Name(), how)
			require.Empty(t, done.Lost, "%s %s", file.Name(), how)
			require.Equal(t, want, dump(t, s), "%s %s: %v", file.Name(), how, done.Damage)
		}
	}
}

// TestRepairOldDatabase puts the database back to what it was some changes ago.
func TestRepairOldDatabase(t *testing.T) {
	s := openStore(t)
	layers, images := fill(t, s)
	old := t.TempDir() + "/db"
	require.NoError(t, os.CopyFS(old, os.DirFS(s.Path(dbName))))
	require.NoError(t, s.Update(func(tx *Tx) error {
		i := image(layers[2], `{"newer":1}`)
		require.NoError(t, tx.PutImage(i))
		require.NoError(t, tx.SetTag("docker.io/library/also:2", i.ID))
		return tx.SetTag("docker.io/library/newest:1", images[0].ID)
	}))
	want := dump(t, s)
	require.NoError(t, os.RemoveAll(s.Path(dbName)))
	require.NoError(t, os.CopyFS(s.Path(dbName), os.DirFS(old)))
	require.ErrorIs(t, s.Sweep(), ErrDamaged)
	done, err := s.Repair(probe(t, s))
	require.NoError(t, err)
	require.ErrorContains(t, done.Damage, "it lacks the last changes")
	require.Empty(t, done.Lost)
	require.Equal(t, want, dump(t, s))
}

// TestRepairTrustsAGoodDatabase: what was removed stays removed, whatever a crash
// left beside it.
func TestRepairTrustsAGoodDatabase(t *testing.T) {
	s := openStore(t)
	_, images := fill(t, s)
	left := s.imageCopy(images[1].ID)
	raw, err := os.ReadFile(left)
	require.NoError(t, err)
	require.NoError(t, s.Update(func(tx *Tx) error { return tx.DeleteImage(images[1].ID) }))
	require.NoFileExists(t, left)
	want := dump(t, s)
	require.NoError(t, os.WriteFile(left, raw, 0o600))
	done, err := s.Repair(probe(t, s))
	require.NoError(t, err)
	require.NoError(t, done.Damage)
	require.Empty(t, done.Lost)
	require.Equal(t, want, dump(t, s))
	require.NoError(t, s.Sweep())
	require.NoFileExists(t, left)
}

// TestRepairKeepsUnknownContainers: with the database and its copy gone, a
// container's files are still somebody's.
func TestRepairKeepsUnknownContainers(t *testing.T) {
	s := openStore(t)
	fill(t, s)
	id := strings.Repeat("1", 64)
	require.NoError(t, os.WriteFile(filepath.Join(s.ContainerDir(id), recordName), []byte("{"), 0o600))
	require.NoError(t, os.RemoveAll(s.Path(dbName)))
	done, err := s.Repair(probe(t, s))
	require.NoError(t, err)
	require.Contains(t, strings.Join(done.Lost, "\n"), "container 111111111111: its record is lost; its own files are in "+s.Path(lostName, id))
	require.Equal(t, 1, done.Containers)
	require.NoError(t, s.Sweep())
	require.DirExists(t, s.Path(lostName, id))
}

// TestKilledBetweenCopiesAndDatabase: the copies know of a change that was never
// made. Nothing is swept then, and neither a repair nor the next change loses what
// there was before.
func TestKilledBetweenCopiesAndDatabase(t *testing.T) {
	for name, mend := range map[string]func(t *testing.T, s *Store){
		"repair": func(t *testing.T, s *Store) {
			done, err := s.Repair(probe(t, s))
			require.NoError(t, err)
			require.ErrorIs(t, done.Damage, errOlder)
			require.Empty(t, done.Lost)
			require.Equal(t, 2, done.Images, "the one that was not acknowledged is whole, and there, too")
		},
		"change": func(t *testing.T, s *Store) {
			require.NoError(t, s.Update(func(tx *Tx) error { return nil }))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			var old Image
			require.NoError(t, s.Update(func(tx *Tx) error {
				l := stageLayer(t, s, tx, nil, "old")
				old = image(l, "old")
				require.NoError(t, tx.PutImage(old))
				return stageContainer(t, s, tx, Container{ID: "old", Name: "n", Top: l.ID})
			}))
			require.Error(t, process(t, s.Root(), "change-whole", "update: copied").Run())
			require.ErrorIs(t, s.Sweep(), ErrDamaged)
			mend(t, s)
			require.NoError(t, s.Sweep())
			require.NoError(t, s.View(func(tx *Tx) error {
				problems, err := tx.Check()
				require.NoError(t, err)
				require.Empty(t, problems)
				_, err = tx.Image(old.ID)
				require.NoError(t, err)
				_, err = tx.Container("old")
				return err
			}))
		})
	}
}

// TestRepairNamesWhatIsLost removes bytes, and damages copies.
func TestRepairNamesWhatIsLost(t *testing.T) {
	s := openStore(t)
	layers, images := fill(t, s)
	require.NoError(t, os.RemoveAll(s.LayerDir(layers[2].DiffID)+"/diff"))
	require.NoError(t, os.WriteFile(s.imageCopy(images[0].ID), []byte("{"), 0o600))
	require.NoError(t, os.Rename(s.imageCopy(images[1].ID), s.imageCopy(strings.Repeat("e", 64))))
	done, err := s.Repair(probe(t, s))
	require.NoError(t, err)
	require.NoError(t, done.Damage)
	text := strings.Join(done.Lost, "\n")
	require.Contains(t, text, "image also:2: the files of its layer "+layers[2].DiffID.String()+" are lost (diff); load or pull it again")
	require.Contains(t, text, "container c-0: the files of its layer")
	require.Contains(t, text, s.Path(lostName, strings.Repeat("0", 64)))
	require.NoError(t, s.Sweep())
	require.DirExists(t, s.Path(lostName, strings.Repeat("0", 64)), "no sweep removes a container's own files")
	require.Contains(t, text, "the copy of image eeeeeeeeeeee: it is of the image")
	require.Equal(t, 1, done.Images)
	require.Equal(t, 1, done.Containers)
	require.NoError(t, s.View(func(tx *Tx) error {
		_, err := tx.Image(images[0].ID)
		return err
	}))
}
