package layerdb

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/layout"
)

func TestLayerIDIsItsContent(t *testing.T) {
	a := Layer{DiffID: digest.FromString("x"), Created: day, Comment: "c"}
	b := a
	require.NoError(t, a.Seal())
	require.NoError(t, b.Seal())
	require.Equal(t, a.ID, b.ID)
	require.Len(t, a.ID, 64)
	for _, change := range []func(*Layer){
		func(l *Layer) { l.Parent = "p" }, func(l *Layer) { l.DiffID = digest.FromString("y") },
		func(l *Layer) { l.Created = day.Add(1) }, func(l *Layer) { l.CreatedBy = "sh" },
		func(l *Layer) { l.Author = "me" }, func(l *Layer) { l.Comment = "d" }, func(l *Layer) { l.Size = 1 },
	} {
		c := b
		change(&c)
		require.NoError(t, c.Seal())
		require.NotEqual(t, a.ID, c.ID)
	}
}

func TestChainIDFollowsTheSpecification(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	require.Equal(t, a, layout.ChainID("", a))
	require.Equal(t, digest.FromString(a.String()+" "+b.String()), layout.ChainID(a, b))
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	s := openStore(t)
	config := "{\n  \"architecture\": \"amd64\", \"x\": \"<&>\" }"
	var low, high Layer
	var img Image
	c := Container{ID: strings.Repeat("c", 64), Name: "first", ImageName: "mine:1", Created: day, Command: []string{"sh", "-c", "x"}}
	require.NoError(t, s.Update(func(tx *Tx) error {
		low = stageLayer(t, s, tx, nil, "low")
		high = stageLayer(t, s, tx, &low, "high")
		img = image(high, config)
		c.Top, c.ImageID = high.ID, img.ID
		require.NoError(t, tx.PutImage(img))
		require.NoError(t, tx.SetTag("docker.io/library/mine:1", img.ID))
		return stageContainer(t, s, tx, c)
	}))
	require.NoError(t, s.View(func(tx *Tx) error {
		chain, err := tx.Chain(high.ID)
		require.NoError(t, err)
		require.Equal(t, []Layer{high, low}, chain, "top first")
		got, err := tx.Image(img.ID)
		require.NoError(t, err)
		require.Equal(t, config, string(got.Config), "byte for byte")
		list, err := tx.Containers()
		require.NoError(t, err)
		require.Equal(t, []Container{c}, list)
		tags, err := tx.Tags()
		require.NoError(t, err)
		require.Equal(t, map[string]string{"docker.io/library/mine:1": img.ID}, tags)
		_, err = tx.Chain("absent")
		require.ErrorIs(t, err, ErrNoSuchLayer)
		return nil
	}))
}

func TestFindImage(t *testing.T) {
	s := openStore(t)
	var one, two Image
	require.NoError(t, s.Update(func(tx *Tx) error {
		l := stageLayer(t, s, tx, nil, "l")
		one = image(l, "one")
		two = image(l, "two")
		require.NoError(t, tx.PutImage(one))
		require.NoError(t, tx.PutImage(two))
		require.NoError(t, tx.SetTag("docker.io/library/mine:latest", one.ID))
		require.NoError(t, tx.SetTag("docker.io/library/mine:2", two.ID))
		require.NoError(t, tx.SetTag("quay.io/a/b:c", two.ID))
		for i := range 20 { // ids that share their first digit
			require.NoError(t, tx.PutImage(image(l, fmt.Sprint(i))))
		}
		return nil
	}))
	for name, want := range map[string]string{
		"mine": one.ID, "mine:latest": one.ID, "docker.io/mine": one.ID, "mine:2": two.ID, "quay.io/a/b:c": two.ID,
		one.ID: one.ID, one.ID[:12]: one.ID, "sha256:" + two.ID: two.ID, two.ID[:10]: two.ID,
	} {
		require.NoError(t, s.View(func(tx *Tx) error {
			got, err := tx.FindImage(name)
			require.NoError(t, err, name)
			require.Equal(t, want, got.ID, name)
			return nil
		}))
	}
	fails := map[string]string{
		"mine:3": "No such image: mine:3", "": "No such image: ", "UPPER": "No such image: UPPER",
		"quay.io/a/b": "No such image: quay.io/a/b", "zz": "No such image: zz", "a b": "No such image: a b",
		"../x": "No such image: ../x", "tag/x": "No such image: tag/x",
	}
	for name, text := range fails {
		require.NoError(t, s.View(func(tx *Tx) error {
			_, err := tx.FindImage(name)
			require.EqualError(t, err, text)
			return nil
		}))
	}
	require.NoError(t, s.View(func(tx *Tx) error {
		images, err := tx.Images()
		require.NoError(t, err)
		shared := ""
		for i := 1; i < len(images); i++ {
			if images[i].ID[0] == images[i-1].ID[0] {
				shared = images[i].ID[:1]
			}
		}
		_, err = tx.FindImage(shared)
		require.EqualError(t, err, "multiple IDs found with provided prefix: "+shared)
		return nil
	}))
}

func TestFindContainer(t *testing.T) {
	s := openStore(t)
	ids := []string{strings.Repeat("ab", 32), "ac" + strings.Repeat("0", 62), strings.Repeat("d", 64)}
	require.NoError(t, s.Update(func(tx *Tx) error {
		l := stageLayer(t, s, tx, nil, "l")
		for i, name := range []string{"one", "two", "ab"} {
			require.NoError(t, stageContainer(t, s, tx, Container{ID: ids[i], Name: name, Top: l.ID}))
		}
		return nil
	}))
	for name, want := range map[string]string{
		"one": ids[0], "/two": ids[1], ids[0]: ids[0], "aba": ids[0], "ac": ids[1], "d": ids[2],
		"ab": ids[2], // a name comes before the beginning of an id
	} {
		require.NoError(t, s.View(func(tx *Tx) error {
			got, err := tx.FindContainer(name)
			require.NoError(t, err, name)
			require.Equal(t, want, got.ID, name)
			return nil
		}))
	}
	for name, text := range map[string]string{
		"a": "multiple IDs found with provided prefix: a", "three": "No such container: three",
		"": "No such container: ", "..": "No such container: ..", "e": "No such container: e",
	} {
		require.NoError(t, s.View(func(tx *Tx) error {
			_, err := tx.FindContainer(name)
			require.EqualError(t, err, text)
			return nil
		}))
	}
}

func TestContainerNamesAreUniqueAndFreedAgain(t *testing.T) {
	s := openStore(t)
	a, b := Container{ID: "aa", Name: "n"}, Container{ID: "bb", Name: "n"}
	require.NoError(t, s.Update(func(tx *Tx) error {
		l := stageLayer(t, s, tx, nil, "l")
		a.Top, b.Top = l.ID, l.ID
		return stageContainer(t, s, tx, a)
	}))
	put := func() error { return s.Update(func(tx *Tx) error { return stageContainer(t, s, tx, b) }) }
	require.ErrorIs(t, put(), ErrNameInUse)
	require.NoDirExists(t, s.ContainerDir("bb"))

	require.NoError(t, s.RemoveContainer("aa"))
	require.NoError(t, s.View(func(tx *Tx) error {
		list, err := tx.Containers()
		require.NoError(t, err)
		require.Empty(t, list, "a container is gone with its directory")
		_, err = tx.FindContainer("n")
		require.ErrorIs(t, err, ErrNoSuchContainer)
		_, err = tx.FindContainer("aa")
		require.ErrorIs(t, err, ErrNoSuchContainer)
		return nil
	}))
	require.NoError(t, put())
	require.NoError(t, s.View(func(tx *Tx) error {
		all, err := tx.records()
		require.Len(t, all, 1, "the void record was dropped")
		return err
	}))
	require.NoError(t, s.Update(func(tx *Tx) error { return tx.DeleteContainer("bb") }))
	require.NoDirExists(t, s.ContainerDir("bb"))
	require.NoError(t, put())
}

func TestCollectKeepsWhatIsReached(t *testing.T) {
	s := openStore(t)
	var base, left, right Layer
	var imgL, imgR Image
	require.NoError(t, s.Update(func(tx *Tx) error {
		base = stageLayer(t, s, tx, nil, "base")
		left = stageLayer(t, s, tx, &base, "left")
		right = stageLayer(t, s, tx, &base, "right")
		same := Layer{DiffID: left.DiffID, Parent: right.ID, ChainID: layout.ChainID(right.ChainID, left.DiffID), Created: day}
		require.NoError(t, same.Seal())
		require.NoError(t, tx.PutLayer(same))
		imgL, imgR = image(left, "l"), image(same, "r")
		require.NoError(t, tx.PutImage(imgL))
		require.NoError(t, tx.PutImage(imgR))
		return stageContainer(t, s, tx, Container{ID: "cc", Name: "n", Top: base.ID})
	}))
	collect := func(fn func(tx *Tx) error) (dropped []Layer, gone []digest.Digest) {
		require.NoError(t, s.Update(func(tx *Tx) (err error) {
			require.NoError(t, fn(tx))
			dropped, gone, err = tx.Collect()
			return err
		}))
		return dropped, gone
	}
	dropped, gone := collect(func(tx *Tx) error { return tx.DeleteImage(imgL.ID) })
	require.Equal(t, []Layer{left}, dropped)
	require.Empty(t, gone, "another layer has the same diff")
	require.DirExists(t, s.LayerDir(left.DiffID))

	dropped, gone = collect(func(tx *Tx) error { return tx.DeleteImage(imgR.ID) })
	require.Len(t, dropped, 2)
	require.ElementsMatch(t, []digest.Digest{left.DiffID, right.DiffID}, gone)
	require.NoDirExists(t, s.LayerDir(left.DiffID))
	require.DirExists(t, s.LayerDir(base.DiffID), "a container stands on it")

	dropped, gone = collect(func(tx *Tx) error { return tx.DeleteContainer("cc") })
	require.Equal(t, []Layer{base}, dropped)
	require.Equal(t, []digest.Digest{base.DiffID}, gone)
	require.Empty(t, names(t, s.Path(layout.LayersName)))
	require.Empty(t, names(t, s.Path(layout.TmpName)))
}

func TestDeleteImageTakesItsTags(t *testing.T) {
	s := openStore(t)
	require.NoError(t, s.Update(func(tx *Tx) error {
		l := stageLayer(t, s, tx, nil, "l")
		i, j := image(l, "i"), image(l, "j")
		require.NoError(t, tx.PutImage(i))
		require.NoError(t, tx.PutImage(j))
		require.NoError(t, tx.SetTag("docker.io/library/i:1", i.ID))
		require.NoError(t, tx.SetTag("docker.io/library/i:2", i.ID))
		require.NoError(t, tx.SetTag("docker.io/library/j:1", j.ID))
		require.NoError(t, tx.DeleteImage(i.ID))
		tags, err := tx.Tags()
		require.Equal(t, map[string]string{"docker.io/library/j:1": j.ID}, tags)
		require.ErrorIs(t, tx.SetTag("docker.io/library/k:1", i.ID), ErrNoSuchImage)
		return err
	}))
}

func TestParseRef(t *testing.T) {
	for name, want := range map[string]string{
		"mine": "docker.io/library/mine:latest", "a/b:c": "docker.io/a/b:c", "localhost:5000/x": "localhost:5000/x:latest",
	} {
		ref, err := ParseRef(name)
		require.NoError(t, err)
		require.Equal(t, want, ref)
	}
	for _, bad := range []string{"", "Upper", "a:b:c", "a b", "x@sha256:" + strings.Repeat("0", 64), strings.Repeat("f", 64)} {
		_, err := ParseRef(bad)
		require.Error(t, err, bad)
	}
	repo, tag := RepoTag("docker.io/library/mine:1")
	require.Equal(t, "mine:1", repo+":"+tag)
	require.Equal(t, "mine:1", Familiar("docker.io/library/mine:1"))
}

// TestManyVoidRecords: however many containers are gone, an update that writes little
// drops some, and the next ones the rest.
func TestManyVoidRecords(t *testing.T) {
	s := openStore(t)
	const containers = 2*mostVoid + 20
	require.NoError(t, s.Update(func(tx *Tx) error {
		l := stageLayer(t, s, tx, nil, "l")
		for i := range containers {
			require.NoError(t, stageContainer(t, s, tx, Container{ID: fmt.Sprintf("%064x", i), Name: fmt.Sprint("c", i), Top: l.ID, Created: day}))
		}
		return nil
	}))
	for i := range containers {
		require.NoError(t, s.RemoveContainer(fmt.Sprintf("%064x", i)))
	}
	for _, left := range []int{mostVoid + 20, 20, 0} {
		require.NoError(t, s.UpdateFew(func(*Tx) error { return nil }))
		require.NoError(t, s.View(func(tx *Tx) error {
			list, err := tx.records()
			require.Len(t, list, left)
			return err
		}))
	}
}
