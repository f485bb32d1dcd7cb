package archive

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/layerdb"
)

func zip(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(data)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.Bytes()
}

func zstdOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	require.NoError(t, err)
	_, err = z.Write(data)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.Bytes()
}

func emptyStore(t testing.TB) *layerdb.Store {
	t.Helper()
	store, err := layerdb.Open(t.TempDir()+"/store", layerdb.Options{})
	require.NoError(t, err)
	return store
}

// blobOf says the truth about a layer's bytes.
func blobOf(mediaType string, raw, tar []byte) Blob {
	return Blob{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw)), DiffID: digest.FromBytes(tar)}
}

// requireClean checks that nothing unfinished is in the store.
func requireClean(t testing.TB, store *layerdb.Store) {
	t.Helper()
	list, err := os.ReadDir(store.Root() + "/tmp")
	require.NoError(t, err)
	require.Empty(t, list)
}

func configFor(t testing.TB, tars ...[]byte) []byte {
	t.Helper()
	config := v1.Image{Platform: v1.Platform{OS: "linux"}, RootFS: v1.RootFS{Type: "layers"}}
	for _, tar := range tars {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(tar))
	}
	raw, err := json.Marshal(config)
	require.NoError(t, err)
	return raw
}

func TestIntakeTakesEveryEncoding(t *testing.T) {
	tar := build(t, dir("etc"), file("etc/hostname", strings.Repeat("varve", 1000)))
	for mediaType, raw := range map[string][]byte{
		"":                         zip(t, tar),
		v1.MediaTypeImageLayer:     tar,
		v1.MediaTypeImageLayerGzip: zip(t, tar),
		v1.MediaTypeImageLayerZstd: zstdOf(t, tar),
		"application/vnd.docker.image.rootfs.diff.tar.gzip": zip(t, tar),
	} {
		t.Run(mediaType, func(t *testing.T) {
			store := emptyStore(t)
			in := NewIntake(store, UnpackOptions{})
			id := digest.FromBytes(tar)
			missing, err := in.Missing([]digest.Digest{id, id})
			require.NoError(t, err)
			require.Equal(t, []digest.Digest{id}, missing)
			require.NoError(t, in.Take(bytes.NewReader(raw), blobOf(mediaType, raw, tar)))
			require.NoError(t, in.Sync())
			config := configFor(t, tar)
			require.NoError(t, store.Update(func(tx *layerdb.Tx) error {
				image, err := in.Put(tx, config, "docker.io/library/a:1")
				require.Equal(t, digest.FromBytes(config).Encoded(), image.ID)
				return err
			}))
			require.NoError(t, in.Close())
			requireClean(t, store)
			var back bytes.Buffer
			require.NoError(t, WriteLayer(&back, store.LayerDir(id), id))
			require.True(t, bytes.Equal(tar, back.Bytes()))

			again := NewIntake(store, UnpackOptions{})
			missing, err = again.Missing([]digest.Digest{id})
			require.NoError(t, err)
			require.Empty(t, missing, "it is here")
			require.NoError(t, again.Take(nil, Blob{DiffID: id}), "not read")
			require.NoError(t, again.Close())
		})
	}
}

func TestIntakeRefusesLies(t *testing.T) {
	tar := build(t, dir("etc"), file("etc/hostname", strings.Repeat("varve", 1000)))
	raw := zip(t, tar)
	other := digest.FromString("other")
	for name, lie := range map[string]struct {
		tell func(*Blob)
		want error
	}{
		"digest":             {func(b *Blob) { b.Digest = other }, ErrMismatch},
		"diff ID":            {func(b *Blob) { b.DiffID = other }, ErrMismatch},
		"too small":          {func(b *Blob) { b.Size-- }, ErrMismatch},
		"too large":          {func(b *Blob) { b.Size++ }, ErrMismatch},
		"zstd":               {func(b *Blob) { b.MediaType = v1.MediaTypeImageLayerZstd }, ErrMediaType},
		"not compressed":     {func(b *Blob) { b.MediaType = v1.MediaTypeImageLayer }, ErrMediaType},
		"no layer":           {func(b *Blob) { b.MediaType = "application/vnd.in-toto+json" }, ErrMediaType},
		"no digest":          {func(b *Blob) { b.Digest = "sha256:../../etc" }, digest.ErrDigestInvalidLength},
		"no diff ID":         {func(b *Blob) { b.DiffID = "../../../evil" }, digest.ErrDigestInvalidFormat},
		"another hash":       {func(b *Blob) { b.DiffID = digest.SHA512.FromString("x") }, digest.ErrDigestUnsupported},
		"upper case diff ID": {func(b *Blob) { b.DiffID = digest.Digest(strings.ToUpper(b.DiffID.String())) }, digest.ErrDigestInvalidFormat},
	} {
		t.Run(name, func(t *testing.T) {
			store := emptyStore(t)
			in := NewIntake(store, UnpackOptions{})
			blob := blobOf(v1.MediaTypeImageLayerGzip, raw, tar)
			lie.tell(&blob)
			require.ErrorIs(t, in.Take(bytes.NewReader(raw), blob), lie.want)
			requireClean(t, store)
			require.NoError(t, in.Close())
		})
	}
}

// TestIntakeSeesEveryFlippedByte changes each byte of a compressed layer in turn.
func TestIntakeSeesEveryFlippedByte(t *testing.T) {
	tar := build(t, file("f", "content"))
	raw := zip(t, tar)
	store := emptyStore(t)
	in := NewIntake(store, UnpackOptions{})
	blob := blobOf(v1.MediaTypeImageLayerGzip, raw, tar)
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x10
		require.Error(t, in.Take(bytes.NewReader(bad), blob), "byte %d", i)
		require.ErrorIs(t, in.Take(bytes.NewReader(raw[:i]), blob), map[bool]error{true: ErrMismatch, false: ErrMediaType}[i >= 2], "cut at %d", i)
	}
	requireClean(t, store)
	require.NoError(t, in.Take(bytes.NewReader(raw), blob), "the right one after all")
	require.NoError(t, in.Close())
	requireClean(t, store)
}

// TestIntakeHolds removes an image whose layer another image, on its way in, has
// found.
func TestIntakeHolds(t *testing.T) {
	tar := build(t, file("f", "content"))
	id := digest.FromBytes(tar)
	store := emptyStore(t)
	first := NewIntake(store, UnpackOptions{})
	require.NoError(t, first.Take(bytes.NewReader(tar), Blob{DiffID: id, Size: -1}))
	put := func(in *Intake, author string) (image layerdb.Image) {
		config := v1.Image{Author: author, RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{id}}}
		raw, err := json.Marshal(config)
		require.NoError(t, err)
		require.NoError(t, store.Update(func(tx *layerdb.Tx) (err error) {
			image, err = in.Put(tx, raw)
			return err
		}))
		return image
	}
	old := put(first, "first")
	require.NoError(t, first.Close())

	second := NewIntake(store, UnpackOptions{})
	missing, err := second.Missing([]digest.Digest{id})
	require.NoError(t, err)
	require.Empty(t, missing)
	require.NoError(t, store.Update(func(tx *layerdb.Tx) error {
		require.NoError(t, tx.DeleteImage(old.ID))
		dropped, _, err := tx.Collect()
		require.Len(t, dropped, 1)
		return err
	}))
	require.DirExists(t, store.LayerDir(id), "held")
	put(second, "second")
	require.NoError(t, second.Close())
	require.NoError(t, store.Sweep())
	require.DirExists(t, store.LayerDir(id), "used")
	requireClean(t, store)
}

func TestParseConfig(t *testing.T) {
	id := digest.FromString("x").String()
	for name, c := range map[string]struct{ config, want string }{
		"another machine":  {`{"os":"linux","architecture":"s390x","rootfs":{"type":"layers"}}`, "another platform: it is for linux/s390x"},
		"another system":   {`{"os":"windows","rootfs":{"type":"layers"}}`, "another platform"},
		"no config":        {`{}`, "type \"\""},
		"no JSON":          {`<html>`, "read the image's config"},
		"digest as a path": {`{"rootfs":{"type":"layers","diff_ids":["sha256:../../../etc/passwd"]}}`, "invalid checksum digest"},
		"many layers":      {`{"rootfs":{"type":"layers","diff_ids":["` + strings.Repeat(id+`","`, 501) + id + `"]}}`, "502 layers, 500"},
		"long history":     {`{"rootfs":{"type":"layers"},"history":[` + strings.Repeat(`{},`, 1000) + `{}]}`, "1001 lines"},
		"long":             {`{"author":"` + strings.Repeat("x", 200<<10) + `"}`, "limit reached"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseConfig([]byte(c.config))
			require.ErrorContains(t, err, c.want)
		})
	}
}
