package engine

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// archiveOf writes an archive of one image with these layers, called mine:1, as docker
// save wrote it for years.
func archiveOf(t *testing.T, layers []part) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "images.tar")
	f, err := os.Create(path)
	require.NoError(t, err)
	out := tar.NewWriter(f)
	add := func(name string, data []byte) string {
		require.NoError(t, out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}))
		_, err := out.Write(data)
		require.NoError(t, err)
		return name
	}
	var names []string
	var ids []digest.Digest
	for i, l := range layers {
		names, ids = append(names, add(fmt.Sprint(i, "/layer.tar"), l.data)), append(ids, l.diffID)
	}
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
	require.NoError(t, err)
	manifest, err := json.Marshal([]map[string]any{{
		"Config": add(digest.FromBytes(config).Encoded()+".json", config), "RepoTags": []string{"mine:1"}, "Layers": names,
	}})
	require.NoError(t, err)
	add("manifest.json", manifest)
	require.NoError(t, out.Close())
	require.NoError(t, f.Close())
	return path
}

// TestLoadSideBySide lets no layer go on before three are being read.
func TestLoadSideBySide(t *testing.T) {
	e := newEngine(t)
	var layers []part
	for i := range 5 {
		layers = append(layers, layer(t, fmt.Sprint(i), "x"))
	}
	var mu sync.Mutex
	begun, ended := map[digest.Digest]bool{}, map[digest.Digest]int64{}
	three := make(chan struct{})
	list, err := e.Load(archiveOf(t, layers), func(s Step) {
		mu.Lock()
		if s.What == "Load complete" {
			ended[s.Layer]++
		}
		if s.What == "Loading layer" && !begun[s.Layer] {
			begun[s.Layer] = true
			if len(begun) == travellers {
				close(three)
			}
			defer func() {
				select {
				case <-three:
				case <-time.After(10 * time.Second):
					t.Error("three layers were not read at a time")
				}
			}()
		}
		mu.Unlock()
	})
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Len(t, ended, 5)
	for i, l := range layers {
		require.EqualValues(t, 1, ended[l.diffID])
		require.Equal(t, "x", content(t, e, l, fmt.Sprint(i)))
	}
}

// TestLoadStopsAtABadLayer: the first error counts, and nothing stays.
func TestLoadStopsAtABadLayer(t *testing.T) {
	e := newEngine(t)
	layers := []part{layer(t, "a", "x"), layer(t, "b", "x"), layer(t, "c", "x")}
	layers[1].diffID = digest.FromString("another")
	_, err := e.Load(archiveOf(t, layers), nil)
	require.ErrorContains(t, err, "the image's config says "+layers[1].diffID.String())
	requireNothing(t, e)
}
