package engine

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/internal/registry"
	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/layerdb"
)

// remote is a registry in this process, and a way to put images there by hand.
type remote struct {
	*testenv.Registry
	repo *registry.Repository
	name string // of the repository
}

func newRemote(t *testing.T) *remote {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"} {
		t.Setenv(name, dir) // no credentials of the user who runs the tests
	}
	t.Setenv("REGISTRY_AUTH_FILE", "")
	r := &remote{Registry: testenv.NewRegistry(t)}
	r.name = r.Host + "/me/x"
	var err error
	r.repo, err = registry.Open(t.Context(), r.name, registry.Options{Push: true})
	require.NoError(t, err)
	return r
}

func newEngine(t *testing.T) *Engine {
	t.Helper()
	e, err := Open(filepath.Join(t.TempDir(), "store"))
	require.NoError(t, err)
	return e
}

// part is a layer as it lies in a registry, and its diff ID.
type part struct {
	v1.Descriptor
	data   []byte
	diffID digest.Digest
}

// layer is a compressed tar of one file.
func layer(t *testing.T, name, content string) part {
	t.Helper()
	var plain, zipped bytes.Buffer
	w := tar.NewWriter(&plain)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1e9, 0)}))
	_, err := io.WriteString(w, content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	z := gzip.NewWriter(&zipped)
	_, err = z.Write(plain.Bytes())
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return part{descriptor(v1.MediaTypeImageLayerGzip, zipped.Bytes()), zipped.Bytes(), digest.FromBytes(plain.Bytes())}
}

// publish puts an image of the layers into the registry, after mangle, if not nil, has
// changed what its manifest and config say, and returns the digest of the manifest.
func (r *remote) publish(t *testing.T, tag string, layers []part, mangle func(*v1.Manifest, *v1.Image)) digest.Digest {
	t.Helper()
	config := v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
		History: []v1.History{{CreatedBy: "ENV a=b", EmptyLayer: true}},
	}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{}}
	for i, l := range layers {
		require.NoError(t, r.repo.Upload(t.Context(), l.Descriptor, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l.data)), nil }))
		m.Layers = append(m.Layers, l.Descriptor)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		config.History = append(config.History, v1.History{CreatedBy: fmt.Sprintf("COPY %d", i)})
	}
	if mangle != nil {
		mangle(&m, &config)
	}
	raw, err := json.Marshal(config)
	require.NoError(t, err)
	m.Config = descriptor(v1.MediaTypeImageConfig, raw)
	require.NoError(t, r.repo.Upload(t.Context(), m.Config, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }))
	manifest, err := json.Marshal(m)
	require.NoError(t, err)
	require.NoError(t, r.repo.PutManifest(t.Context(), tag, m.MediaType, manifest))
	r.Forget()
	return digest.FromBytes(manifest)
}

// manifest is what the registry has under a tag.
func (r *remote) manifest(t *testing.T, name, tag string) registry.Manifest {
	t.Helper()
	repo, err := registry.Open(t.Context(), name, registry.Options{})
	require.NoError(t, err)
	m, err := repo.Manifest(t.Context(), tag, "")
	require.NoError(t, err)
	return m
}

// requireNothing: no trace of an image is in the store.
func requireNothing(t *testing.T, e *Engine) {
	t.Helper()
	list, err := e.Images()
	require.NoError(t, err)
	require.Len(t, list, 1, "but for the image host")
	for _, dir := range []string{"tmp", "layers", "chains"} {
		entries, err := os.ReadDir(filepath.Join(e.Root(), dir))
		if !os.IsNotExist(err) {
			require.NoError(t, err)
		}
		require.Empty(t, entries, dir)
	}
}

// content is a file of a layer.
func content(t *testing.T, e *Engine, l part, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(e.store.LayerDir(l.diffID), "diff", name))
	require.NoError(t, err)
	return string(data)
}

func TestPull(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	layers := []part{layer(t, "a", "one"), layer(t, "b", "three")}
	d := r.publish(t, "1", layers, nil)
	refs, err := e.Pull(t.Context(), r.name+":1", PullOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{r.name + ":1"}, refs)
	require.Equal(t, "one", content(t, e, layers[0], "a"))
	require.Equal(t, "three", content(t, e, layers[1], "b"))

	history, err := e.History(r.name + ":1")
	require.NoError(t, err)
	var lines []string
	for _, h := range history {
		lines = append(lines, fmt.Sprintf("%s %d", h.CreatedBy, h.Size))
	}
	require.Equal(t, []string{"COPY 1 5", "COPY 0 3", "ENV a=b 0"}, lines)
	inspect, err := e.Inspect(r.name+"@"+d.String(), InspectOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{r.name + ":1"}, inspect.(*ImageInspect).RepoTags)
	require.Equal(t, []string{r.name + "@" + d.String()}, inspect.(*ImageInspect).RepoDigests)
	chain := layout.ChainID(layers[0].diffID, layers[1].diffID)
	require.FileExists(t, e.store.ChainFile(chain), "the index is made with the image")
	left, err := os.ReadDir(filepath.Join(e.Root(), "tmp"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestPullAgainFetchesNoLayer(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	base := layer(t, "a", "one")
	d := r.publish(t, "1", []part{base}, nil)
	_, err := e.Pull(t.Context(), r.name+":1", PullOptions{})
	require.NoError(t, err)
	require.Len(t, r.layers(base), 1)

	for _, name := range []string{r.name + ":1", r.name + "@" + d.String()} {
		r.Forget()
		_, err = e.Pull(t.Context(), name, PullOptions{})
		require.NoError(t, err)
		require.Empty(t, r.layers(base), name)
	}
	second := layer(t, "b", "two")
	r.publish(t, "2", []part{base, second, base}, nil)
	_, err = e.Pull(t.Context(), r.name+":2", PullOptions{})
	require.NoError(t, err)
	require.Empty(t, r.layers(base))
	require.Len(t, r.layers(second), 1)
}

// layers are the requests for a layer.
func (r *remote) layers(l part) []string {
	return r.Requests("GET /v2/me/x/blobs/" + l.Digest.String())
}

// TestPullOfEveryCompression: docker's types of OCI's layers, zstd, and none.
func TestPullOfEveryCompression(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	zipped := layer(t, "a", "gzip")
	zipped.MediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	plain := layer(t, "b", "plain")
	z, err := gzip.NewReader(bytes.NewReader(plain.data))
	require.NoError(t, err)
	plain.data, err = io.ReadAll(z)
	require.NoError(t, err)
	plain.Descriptor = descriptor(v1.MediaTypeImageLayer, plain.data)
	fast := layer(t, "c", "zstd")
	z, err = gzip.NewReader(bytes.NewReader(fast.data))
	require.NoError(t, err)
	raw, err := io.ReadAll(z)
	require.NoError(t, err)
	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	fast.data = w.EncodeAll(raw, nil)
	require.NoError(t, w.Close())
	fast.Descriptor = descriptor(v1.MediaTypeImageLayerZstd, fast.data)

	r.publish(t, "1", []part{zipped, plain, fast}, nil)
	_, err = e.Pull(t.Context(), r.name+":1", PullOptions{})
	require.NoError(t, err)
	require.Equal(t, "gzip", content(t, e, zipped, "a"))
	require.Equal(t, "plain", content(t, e, plain, "b"))
	require.Equal(t, "zstd", content(t, e, fast, "c"))

	// Pushed again they keep their forms, under OCI's names.
	require.NoError(t, tagAs(e, r.name+":1", r.name+":2"))
	_, err = e.Push(t.Context(), r.name+":2", PushOptions{})
	require.NoError(t, err)
	var types []string
	for _, l := range r.manifest(t, r.name, "2").Layers {
		types = append(types, l.MediaType)
	}
	require.Equal(t, []string{v1.MediaTypeImageLayerGzip, v1.MediaTypeImageLayer, v1.MediaTypeImageLayerZstd}, types)
}

func TestPullByDigestOnly(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	d := r.publish(t, "1", []part{layer(t, "a", "one")}, nil)
	refs, err := e.Pull(t.Context(), r.name+"@"+d.String(), PullOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{r.name + "@" + d.String()}, refs)
	list, err := e.Images()
	require.NoError(t, err)
	require.Empty(t, list[0].Refs, "a digest is no tag")
	_, err = e.History(refs[0])
	require.NoError(t, err)
}

func TestPullAllTags(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	r.publish(t, "1", []part{layer(t, "a", "one")}, nil)
	r.publish(t, "2", []part{layer(t, "a", "two")}, func(_ *v1.Manifest, c *v1.Image) { c.Architecture = "s390x" })
	r.publish(t, "3", []part{layer(t, "a", "three")}, nil)
	refs, err := e.Pull(t.Context(), r.name, PullOptions{AllTags: true})
	require.ErrorIs(t, err, registry.ErrPlatform, "of one of them")
	require.Equal(t, []string{r.name + ":1", r.name + ":3"}, refs)
	_, err = e.Pull(t.Context(), r.name+":1", PullOptions{AllTags: true})
	require.ErrorContains(t, err, "tag can't be used with --all-tags/-a")
}

// TestPullSideBySide answers no layer before three are asked for.
func TestPullSideBySide(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	var layers []part
	for i := range 7 {
		layers = append(layers, layer(t, fmt.Sprint(i), "x"))
	}
	r.publish(t, "1", layers, nil)
	var now, most atomic.Int32
	three := make(chan struct{})
	r.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isLayer(req, layers) {
			n := now.Add(1)
			defer now.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			if n == travellers {
				select {
				case <-three:
				default:
					close(three)
				}
			}
			select {
			case <-three:
			case <-time.After(10 * time.Second):
			}
		}
		next.ServeHTTP(w, req)
	})
	_, err := e.Pull(t.Context(), r.name+":1", PullOptions{})
	require.NoError(t, err)
	require.EqualValues(t, travellers, most.Load())
}

func isLayer(req *http.Request, layers []part) bool {
	for _, l := range layers {
		if req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, l.Digest.String()) {
			return true
		}
	}
	return false
}

func TestPullGoesOnAfterACut(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	big := layer(t, "a", noise(2_000_000))
	r.publish(t, "1", []part{big}, nil)
	r.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isLayer(req, []part{big}) {
			w = testenv.CutAfter(w, 600_000)
		}
		next.ServeHTTP(w, req)
	})
	_, err := e.Pull(t.Context(), r.name+":1", PullOptions{})
	require.NoError(t, err)
	require.Len(t, r.layers(big), 4)
	require.Len(t, content(t, e, big, "a"), 2_000_000)
}

// noise does not compress, and is the same always.
func noise(n int) string {
	source := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(source.Uint32())
	}
	return string(data)
}

// TestRefusedPulls: each image is wrong in one way, and nothing of it is kept, although
// its other layer is right.
func TestRefusedPulls(t *testing.T) {
	good, bad := layer(t, "a", "one"), layer(t, "b", strings.Repeat("two", 10_000))
	flip := func(data []byte) []byte {
		data = bytes.Clone(data)
		data[len(data)/2] ^= 1
		return data
	}
	words := []byte(strings.Repeat("this is no tar. ", 1000))
	text := part{descriptor(v1.MediaTypeImageLayer, words), words, digest.FromBytes(words)}
	for name, c := range map[string]struct {
		mangle func(*v1.Manifest, *v1.Image)
		answer func([]byte) []byte // in the place of the layer
		second *part
		want   error
	}{
		"one flipped byte":         {answer: flip, want: archive.ErrMismatch},
		"wrong digest":             {answer: func([]byte) []byte { return layer(t, "b", strings.Repeat("owt", 10_000)).data }, want: archive.ErrMismatch},
		"truncated":                {answer: func(data []byte) []byte { return data[:len(data)-1] }, want: registry.ErrCorrupt},
		"longer":                   {answer: func(data []byte) []byte { return append(bytes.Clone(data), 0) }, want: registry.ErrCorrupt},
		"wrong size":               {mangle: func(m *v1.Manifest, _ *v1.Image) { m.Layers[1].Size-- }, want: registry.ErrCorrupt},
		"wrong diff ID":            {mangle: func(_ *v1.Manifest, c *v1.Image) { c.RootFS.DiffIDs[1] = digest.FromString("x") }, want: archive.ErrMismatch},
		"too few diff IDs":         {mangle: func(_ *v1.Manifest, c *v1.Image) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[:1] }, want: registry.ErrUnsupported},
		"a diff ID that is a path": {mangle: func(_ *v1.Manifest, c *v1.Image) { c.RootFS.DiffIDs[1] = "sha256:../../x" }, want: digest.ErrDigestInvalidLength},
		"another compression":      {mangle: func(m *v1.Manifest, _ *v1.Image) { m.Layers[1].MediaType = v1.MediaTypeImageLayerZstd }, want: archive.ErrMediaType},
		"no layer's type":          {mangle: func(m *v1.Manifest, _ *v1.Image) { m.Layers[1].MediaType = "text/plain" }, want: archive.ErrMediaType},
		"another platform":         {mangle: func(_ *v1.Manifest, c *v1.Image) { c.Architecture = "s390x" }, want: registry.ErrPlatform},
		"not a tar":                {second: &text, want: archive.ErrNotTar},
		"absent layer":             {answer: func([]byte) []byte { return nil }, want: registry.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			r, e := newRemote(t), newEngine(t)
			layers := []part{good, bad}
			if c.second != nil {
				layers[1] = *c.second
			}
			r.publish(t, "1", layers, c.mangle)
			if c.answer != nil {
				r.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
					if !isLayer(req, layers[1:]) {
						next.ServeHTTP(w, req)
						return
					}
					data := c.answer(layers[1].data)
					if data == nil {
						w.WriteHeader(http.StatusNotFound)
					}
					_, _ = w.Write(data)
				})
			}
			_, err := e.Pull(t.Context(), r.name+":1", PullOptions{})
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, "pull "+r.name+":1: ")
			requireNothing(t, e)
		})
	}
}

func TestPullOfAnotherPlatformThatIsAskedFor(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	r.publish(t, "1", []part{layer(t, "a", "one")}, func(_ *v1.Manifest, c *v1.Image) { c.Architecture = "s390x" })
	_, err := e.Pull(t.Context(), r.name+":1", PullOptions{Platform: "linux/s390x"})
	require.NoError(t, err)
	_, err = e.Pull(t.Context(), r.name+":1", PullOptions{Platform: "s390x"})
	require.ErrorContains(t, err, "is no platform")
}

// TestEndedPullLeavesNothing ends it in the middle of a layer.
func TestEndedPullLeavesNothing(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	big := layer(t, "a", noise(2_000_000))
	r.publish(t, "1", []part{big, layer(t, "b", "two")}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := e.Pull(ctx, r.name+":1", PullOptions{Progress: func(s Step) {
		if s.Layer == big.Digest && s.Done > 100_000 {
			cancel()
		}
	}})
	require.ErrorIs(t, err, context.Canceled)
	requireNothing(t, e)
}

// TestPullLeavesTheStoreToOthers: while a layer travels the store is not locked.
func TestPullLeavesTheStoreToOthers(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	big := layer(t, "a", noise(2_000_000))
	r.publish(t, "1", []part{big}, nil)
	others, err := layerdb.Open(e.Root(), layerdb.Options{LockTimeout: 100 * time.Millisecond})
	require.NoError(t, err)
	seen := false
	_, err = e.Pull(t.Context(), r.name+":1", PullOptions{Progress: func(s Step) {
		if s.Done > 0 && !seen {
			seen = true
			require.NoError(t, others.Update(func(*layerdb.Tx) error { return nil }))
		}
	}})
	require.NoError(t, err)
	require.True(t, seen)
}

func TestPullAndPushRefuseNames(t *testing.T) {
	e := newEngine(t)
	_, err := e.Pull(t.Context(), "host", PullOptions{})
	require.ErrorContains(t, err, "host is this machine")
	_, err = e.Pull(t.Context(), "UPPER", PullOptions{})
	require.ErrorContains(t, err, "must be lowercase")
	_, err = e.Push(t.Context(), "host", PushOptions{})
	require.ErrorContains(t, err, "varve export")
	_, err = e.Push(t.Context(), "127.0.0.1:1/x:1", PushOptions{})
	require.ErrorContains(t, err, "does not exist locally with the tag: 127.0.0.1:1/x:1")
	_, err = e.Push(t.Context(), "127.0.0.1:1/x", PushOptions{AllTags: true})
	require.ErrorContains(t, err, "does not exist locally")
}

// made puts an image of one layer into the store, as import does.
func made(t *testing.T, e *Engine, ref, content string) layerdb.Layer {
	t.Helper()
	file := filepath.Join(t.TempDir(), "x.tar.gz")
	require.NoError(t, os.WriteFile(file, layer(t, "f", content).data, 0o600))
	_, err := e.Import(file, ImportOptions{Ref: ref})
	require.NoError(t, err)
	history, err := e.History(ref)
	require.NoError(t, err)
	return history[0].Layer
}

func TestPushIsPulledAsItWas(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	l := made(t, e, r.name+":1", noise(500_000))
	refs, err := e.Push(t.Context(), r.name+":1", PushOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{r.name + ":1"}, refs)
	before, err := e.Inspect(r.name+":1", InspectOptions{})
	require.NoError(t, err)
	m := r.manifest(t, r.name, "1")
	require.Contains(t, before.(*ImageInspect).RepoDigests, r.name+"@"+m.Digest.String())

	e2 := newEngine(t)
	_, err = e2.Pull(t.Context(), r.name+":1", PullOptions{})
	require.NoError(t, err)
	after, err := e2.Inspect(r.name+":1", InspectOptions{})
	require.NoError(t, err)
	require.Equal(t, before.(*ImageInspect).ID, after.(*ImageInspect).ID)
	require.Equal(t, []digest.Digest{l.DiffID}, after.(*ImageInspect).RootFS.Layers)
	require.Equal(t, noise(500_000), content(t, e2, part{diffID: l.DiffID}, "f"))

	left, err := os.ReadDir(filepath.Join(e.Root(), "tmp"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestPushAgainSendsNothing(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	made(t, e, r.name+":1", noise(500_000))
	_, err := e.Push(t.Context(), r.name+":1", PushOptions{})
	require.NoError(t, err)
	require.Len(t, r.Requests("PATCH "), 2, "layer and config")
	r.Forget()
	var said []string
	_, err = e.Push(t.Context(), r.name+":1", PushOptions{Progress: func(s Step) { said = append(said, s.What) }})
	require.NoError(t, err)
	require.Empty(t, r.Requests("PATCH "))
	require.Equal(t, []string{"Waiting", "Layer already exists"}, said, "and it was not compressed again")
}

// TestPushIsTheSameFromEveryStore: compressed anew, a layer has the same digest.
func TestPushIsTheSameFromEveryStore(t *testing.T) {
	var digests []digest.Digest
	for range 2 {
		r, e := newRemote(t), newEngine(t)
		made(t, e, r.name+":1", noise(500_000))
		_, err := e.Push(t.Context(), r.name+":1", PushOptions{})
		require.NoError(t, err)
		digests = append(digests, r.manifest(t, r.name, "1").Layers[0].Digest)
	}
	require.Equal(t, digests[0], digests[1])
}

// TestPulledImageIsPushed to its own registry in the form in which it came, and to
// another in a new one, with the same diff IDs.
func TestPulledImageIsPushed(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	layers := []part{layer(t, "a", "one"), layer(t, "b", noise(100_000)), layer(t, "a", "one")}
	r.publish(t, "1", layers, nil)
	_, err := e.Pull(t.Context(), r.name+":1", PullOptions{})
	require.NoError(t, err)
	far := newRemote(t)
	for _, to := range []string{r.Host + "/you/y:2", far.Host + "/you/y:2"} {
		require.NoError(t, tagAs(e, r.name+":1", to))
		_, err = e.Push(t.Context(), to, PushOptions{})
		require.NoError(t, err)
	}
	near := r.manifest(t, r.Host+"/you/y", "2")
	for i, l := range near.Layers {
		require.Equal(t, layers[i].Descriptor, l)
	}
	require.Equal(t, near.Config, far.manifest(t, far.Host+"/you/y", "2").Config)

	e2 := newEngine(t)
	_, err = e2.Pull(t.Context(), far.Host+"/you/y:2", PullOptions{})
	require.NoError(t, err)
	require.Equal(t, "one", content(t, e2, layers[0], "a"))
	require.Equal(t, noise(100_000), content(t, e2, layers[1], "b"))
}

func tagAs(e *Engine, old, name string) error {
	return e.update(func(tx *layerdb.Tx) error {
		image, err := tx.FindImage(old)
		if err != nil {
			return err
		}
		return tx.SetTag(name, image.ID)
	})
}

func TestPushAllTags(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	made(t, e, r.name+":1", "one")
	made(t, e, r.name+":2", "two")
	require.NoError(t, tagAs(e, r.name+":2", r.name+":latest"))
	made(t, e, "other:1", "three")
	refs, err := e.Push(t.Context(), r.name, PushOptions{AllTags: true})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{r.name + ":1", r.name + ":2", r.name + ":latest"}, refs)
	require.Equal(t, r.manifest(t, r.name, "2").Digest, r.manifest(t, r.name, "latest").Digest)
	_, err = e.Push(t.Context(), r.name+":1", PushOptions{AllTags: true})
	require.ErrorContains(t, err, "tag can't be used with --all-tags/-a")
}

// TestDamagedLayerIsNotPushed: what is sent is checked against the diff ID.
func TestDamagedLayerIsNotPushed(t *testing.T) {
	r, e := newRemote(t), newEngine(t)
	l := made(t, e, r.name+":1", "one")
	require.NoError(t, os.WriteFile(filepath.Join(e.store.LayerDir(l.DiffID), "diff/f"), []byte("two"), 0o600))
	_, err := e.Push(t.Context(), r.name+":1", PushOptions{})
	require.ErrorIs(t, err, archive.ErrDigest)
	require.Empty(t, r.Requests("PUT /v2/me/x/manifests/"))
	require.Empty(t, r.Requests("PATCH "))
}
