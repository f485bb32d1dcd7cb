package main

import (
	"archive/tar"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// TestLoadRefuses: what an archive says of itself must be so, and be for this machine.
// If not there is one sentence, and nothing of it is in the store, nor of what is
// right in the same archive.
func TestLoadRefuses(t *testing.T) {
	testenv.Root(t)
	h := home{bin: testenv.Varve(t), root: filepath.Join(testenv.Dir(t), "store")}
	good := writeArchive(t, func(*layout) {})
	h.ok(t, "load", "-i", good)
	h.ok(t, "rmi", "first:1", "second:1")
	images := []string{"images", "-a", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"}
	before := h.ok(t, images...)
	for name, c := range map[string]struct {
		edit func(*layout)
		want string
	}{
		"type of the image":   {func(l *layout) { l.images[1].mediaType = "application/x-unknown" }, `application/x-unknown`},
		"type of a layer":     {func(l *layout) { l.images[1].layerType = "application/x-unknown" }, `application/x-unknown`},
		"type of the config":  {func(l *layout) { l.images[1].configType = "application/x-unknown" }, `this is no image to run`},
		"platform":            {func(l *layout) { l.images = l.images[1:]; l.images[0].arch = "s390x" }, `it is for linux/s390x`},
		"one name":            {func(l *layout) { l.images[1].name = l.images[0].name }, `two images of the archive are called first:1`},
		"digest of a layer":   {func(l *layout) { l.images[1].diffID = digest.FromString("other") }, digest.FromString("other").String()},
		"digest of the image": {func(l *layout) { l.images[1].damaged = true }, `has the digest sha256:`},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := h.run(t, "load", "-i", writeArchive(t, c.edit))
			require.Equal(t, 1, code, out)
			require.Regexp(t, `^varve: [^\n]+\n$`, out)
			require.Contains(t, out, c.want)
			require.Equal(t, before, h.ok(t, images...))
			for _, dir := range []string{"layers", "tmp"} {
				left, err := os.ReadDir(filepath.Join(h.root, dir))
				require.NoError(t, err)
				require.Empty(t, left, dir)
			}
		})
	}
}

// layout is what an OCI archive says of its two images.
type layout struct{ images []layoutImage }

type layoutImage struct {
	name, arch                       string
	mediaType, configType, layerType string
	diffID                           digest.Digest // "" for the one it has
	damaged                          bool          // the manifest has another digest than is said
}

// writeArchive writes an archive of two images after edit has changed what it says.
func writeArchive(t *testing.T, edit func(*layout)) string {
	t.Helper()
	image := layoutImage{arch: runtime.GOARCH, mediaType: v1.MediaTypeImageManifest, configType: v1.MediaTypeImageConfig, layerType: v1.MediaTypeImageLayer}
	l := layout{images: []layoutImage{image, image}}
	l.images[0].name, l.images[1].name = "first:1", "second:1"
	edit(&l)
	files := map[string][]byte{v1.ImageLayoutFile: asJSON(t, v1.ImageLayout{Version: v1.ImageLayoutVersion})}
	var index v1.Index
	index.SchemaVersion = 2
	for i, image := range l.images {
		index.Manifests = append(index.Manifests, image.add(t, files, strings.Repeat("x", i+1)))
	}
	files[v1.ImageIndexFile] = asJSON(t, index)
	name := filepath.Join(t.TempDir(), "archive.tar")
	require.NoError(t, os.WriteFile(name, tarWith(t, func(w *tar.Writer) {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			putFile(t, w, name, files[name])
		}
	}), 0o600))
	return name
}

// add puts an image with one file of text among the blobs.
func (i layoutImage) add(t *testing.T, files map[string][]byte, text string) v1.Descriptor {
	t.Helper()
	blob := func(mediaType string, raw []byte) v1.Descriptor {
		d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		files["blobs/sha256/"+d.Digest.Encoded()] = raw
		return d
	}
	layer := tarWith(t, func(w *tar.Writer) { putFile(t, w, "file", []byte(text)) })
	if i.diffID == "" {
		i.diffID = digest.FromBytes(layer)
	}
	m := v1.Manifest{Layers: []v1.Descriptor{blob(i.layerType, layer)}}
	m.SchemaVersion = 2
	m.Config = blob(i.configType, asJSON(t, v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: i.arch}, RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{i.diffID}}}))
	raw := asJSON(t, m)
	d := blob(i.mediaType, raw)
	if i.damaged {
		raw[len(raw)-1] = ' ' // of the same length
	}
	d.Annotations = map[string]string{v1.AnnotationRefName: i.name}
	return d
}

func putFile(t *testing.T, w *tar.Writer, name string, raw []byte) {
	t.Helper()
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(raw))}))
	_, err := w.Write(raw)
	require.NoError(t, err)
}

func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return raw
}
