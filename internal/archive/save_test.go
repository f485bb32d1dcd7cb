package archive

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/layerdb"
)

// newStore makes a store with one layer for each tar.
func newStore(t testing.TB, tars ...[]byte) (*layerdb.Store, []layerdb.Layer) {
	t.Helper()
	store, err := layerdb.Open(t.TempDir()+"/store", layerdb.Options{})
	require.NoError(t, err)
	var layers []layerdb.Layer
	for _, data := range tars {
		dir := store.LayerDir(digest.FromBytes(data))
		require.NoError(t, os.MkdirAll(dir, 0o700))
		got, err := Unpack(bytes.NewReader(data), dir, UnpackOptions{})
		require.NoError(t, err)
		layers = append(layers, layerdb.Layer{DiffID: got.DiffID, Size: got.Size})
	}
	return store, layers
}

// image makes an image of the layers.
func image(t testing.TB, refs []string, author string, layers ...layerdb.Layer) SaveImage {
	t.Helper()
	config := v1.Image{Author: author, Platform: v1.Platform{Architecture: "amd64", OS: "linux"}, RootFS: v1.RootFS{Type: "layers"}}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
	}
	data, err := json.Marshal(config)
	require.NoError(t, err)
	return SaveImage{Refs: refs, Config: data, Layers: layers}
}

// contents reads the files of a tar.
func contents(t testing.TB, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		require.NoError(t, err)
		require.NotContains(t, files, h.Name, "written twice")
		files[h.Name], err = io.ReadAll(r)
		require.NoError(t, err)
	}
}

func save(t testing.TB, store *layerdb.Store, images ...SaveImage) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, Save(&b, store, images))
	return b.Bytes()
}

func sampleImages(t testing.TB) (*layerdb.Store, []SaveImage, [][]byte) {
	t.Helper()
	tars := [][]byte{
		build(t, dir("etc"), file("etc/hostname", "varve"), hardlink("hn", "etc/hostname")),
		build(t, dir("etc"), file("etc/.wh.hostname", ""), file("new", strings.Repeat("x", 100_000))),
	}
	store, layers := newStore(t, tars...)
	return store, []SaveImage{
		image(t, []string{"mine:1", "example.org/a/b:2"}, "one", layers...),
		image(t, []string{"base"}, "two", layers[0]),
		image(t, nil, "three", layers[0]),
	}, tars
}

func TestSave(t *testing.T) {
	store, images, tars := sampleImages(t)
	data := save(t, store, images...)
	require.Equal(t, data, save(t, store, images...), "not the same twice")
	files := contents(t, data)
	for name, blob := range files {
		if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && hex != "" {
			require.Equal(t, hex, digest.FromBytes(blob).Encoded())
		}
	}
	require.JSONEq(t, `{"imageLayoutVersion":"1.0.0"}`, string(files["oci-layout"]))

	var docker []dockerManifest
	require.NoError(t, json.Unmarshal(files["manifest.json"], &docker))
	require.Len(t, docker, 3)
	require.Equal(t, []string{"mine:1", "example.org/a/b:2"}, docker[0].RepoTags)
	require.Equal(t, []string{"base:latest"}, docker[1].RepoTags)
	for n, name := range docker[0].Layers {
		require.True(t, bytes.Equal(tars[n], files[name]), "layer %d", n)
	}
	require.Equal(t, images[0].Config, files[docker[0].Config])
	require.Equal(t, docker[0].Layers[:1], docker[2].Layers)

	var repositories map[string]map[string]string
	require.NoError(t, json.Unmarshal(files["repositories"], &repositories))
	top, base := images[0].Layers[1].DiffID.Encoded(), images[0].Layers[0].DiffID.Encoded()
	require.Equal(t, map[string]map[string]string{"mine": {"1": top}, "example.org/a/b": {"2": top}, "base": {"latest": base}}, repositories)

	var index v1.Index
	require.NoError(t, json.Unmarshal(files["index.json"], &index))
	require.Equal(t, 2, index.SchemaVersion)
	require.Len(t, index.Manifests, 4)
	require.Equal(t, map[string]string{"io.containerd.image.name": "docker.io/library/mine:1", "org.opencontainers.image.ref.name": "1"}, index.Manifests[0].Annotations)
	require.Nil(t, index.Manifests[3].Annotations)
	requireManifest(t, files, index.Manifests[1], images[0], tars)
}

// requireManifest follows a descriptor of the index down to the layers.
func requireManifest(t *testing.T, files map[string][]byte, d v1.Descriptor, image SaveImage, tars [][]byte) {
	t.Helper()
	raw := files[blobName(d.Digest)]
	require.EqualValues(t, len(raw), d.Size)
	var m v1.Manifest
	require.NoError(t, json.Unmarshal(raw, &m))
	require.Equal(t, digest.FromBytes(image.Config), m.Config.Digest)
	require.Equal(t, v1.MediaTypeImageManifest, m.MediaType)
	for n, l := range m.Layers {
		require.Equal(t, v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromBytes(tars[n]), Size: int64(len(tars[n]))}, l)
	}
}

func TestSaveRefuses(t *testing.T) {
	store, images, _ := sampleImages(t)
	host := image(t, []string{"h"}, "", layerdb.Layer{Host: true})
	err := Save(io.Discard, store, []SaveImage{host})
	require.ErrorIs(t, err, ErrHostLayer)
	require.ErrorContains(t, err, "export")

	lying := images[0]
	lying.Layers = lying.Layers[:1]
	require.ErrorContains(t, Save(io.Discard, store, []SaveImage{lying}), "its config says")

	named := images[0]
	named.Refs = []string{"Not A Name"}
	require.ErrorContains(t, Save(io.Discard, store, []SaveImage{named}), `"Not A Name"`)

	overwrite(t, store.LayerDir(images[0].Layers[1].DiffID)+"/diff/new", strings.Repeat("y", 100_000))
	require.ErrorIs(t, Save(io.Discard, store, images), ErrDigest)
	require.Error(t, Save(failing{}, store, images[1:]))
}

// failing is a full disk.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// TestSaveIsReadByOthers looks at the archive with the programs it is meant for.
func TestSaveIsReadByOthers(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("no skopeo here: apt-get install skopeo")
	}
	store, images, _ := sampleImages(t)
	path := t.TempDir() + "/images.tar"
	overwrite(t, path, string(save(t, store, images[0])))
	for _, source := range []string{"docker-archive:" + path + ":mine:1", "oci-archive:" + path + ":1"} {
		out, err := exec.Command(skopeo, "inspect", source).CombinedOutput()
		require.NoError(t, err, "%s: %s", source, out)
		for _, l := range images[0].Layers {
			require.Contains(t, string(out), l.DiffID.String())
		}
	}
}
