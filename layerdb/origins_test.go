package layerdb

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

func TestOriginsAreTheLatestAndGoWithTheLayer(t *testing.T) {
	s := openStore(t)
	origin := func(i int) Origin {
		return Origin{Repository: fmt.Sprintf("docker.io/library/r%d", i), MediaType: "t", Digest: digest.FromString("x"), Size: 1}
	}
	var l Layer
	require.NoError(t, s.Update(func(tx *Tx) error {
		l = stageLayer(t, s, tx, nil, "one")
		require.NoError(t, tx.PutImage(image(l, "{}")))
		for _, i := range []int{1, 2, 3, 2, 4, 5, 5} {
			require.NoError(t, tx.AddOrigin(l.DiffID, origin(i)))
		}
		return tx.AddOrigin(digest.FromString("no such layer"), origin(1))
	}))
	list := func(diffID digest.Digest) (list []Origin) {
		require.NoError(t, s.View(func(tx *Tx) (err error) {
			list, err = tx.Origins(diffID)
			return err
		}))
		return list
	}
	require.Equal(t, []Origin{origin(5), origin(4), origin(2), origin(3)}, list(l.DiffID))
	require.Empty(t, list(digest.FromString("no such layer")))
	require.NoError(t, s.Update(func(tx *Tx) error {
		require.NoError(t, tx.DeleteImage(image(l, "{}").ID))
		_, _, err := tx.Collect()
		return err
	}))
	require.Empty(t, list(l.DiffID))
}

func TestImagesAreFoundByDigest(t *testing.T) {
	s := openStore(t)
	d := digest.FromString("manifest")
	var i Image
	require.NoError(t, s.Update(func(tx *Tx) error {
		i = image(stageLayer(t, s, tx, nil, "one"), "{}")
		require.NoError(t, tx.PutImage(i))
		require.ErrorIs(t, tx.SetDigest("docker.io/library/small", d, strings.Repeat("0", 64)), ErrNoSuchImage)
		return tx.SetDigest("docker.io/library/small", d, i.ID)
	}))
	require.NoError(t, s.View(func(tx *Tx) error {
		for _, name := range []string{"small@" + d.String(), "small:1@" + d.String(), "docker.io/library/small@" + d.String()} {
			got, err := tx.FindImage(name)
			require.NoError(t, err, name)
			require.Equal(t, i.ID, got.ID)
		}
		for _, name := range []string{"other@" + d.String(), "small@" + digest.FromString("other").String(), "small", "small@sha256:1", "@" + d.String()} {
			_, err := tx.FindImage(name)
			require.ErrorIs(t, err, ErrNoSuchImage, name)
		}
		digests, err := tx.Digests()
		require.Equal(t, map[string]string{"docker.io/library/small@" + d.String(): i.ID}, digests)
		return err
	}))
	require.NoError(t, s.Update(func(tx *Tx) error { return tx.DeleteImage(i.ID) }))
	require.NoError(t, s.View(func(tx *Tx) error {
		digests, err := tx.Digests()
		require.Empty(t, digests)
		return err
	}))
}

func TestReferencesInTwoParts(t *testing.T) {
	for full, want := range map[string][2]string{
		"docker.io/library/x:1":    {"docker.io/library/x", "1"},
		"localhost:5000/a/b:c.d-e": {"localhost:5000/a/b", "c.d-e"},
	} {
		repository, tag := SplitRef(full)
		require.Equal(t, want, [2]string{repository, tag})
	}
	for name, want := range map[string]bool{"x": false, "x:1": true, "localhost:5000/x": false, "localhost:5000/x:1": true} {
		require.Equal(t, want, Tagged(name), name)
	}
	for _, bad := range []string{"x", "x@", "x@sha256:12", "x@md5:d41d8cd98f00b204e9800998ecf8427e", "X@" + digest.FromString("").String(),
		"x@sha512:" + strings.Repeat("0", 128), "x@" + digest.FromString("").String() + "/../y"} {
		_, _, err := ParseDigestRef(bad)
		require.Error(t, err, bad)
	}
}
