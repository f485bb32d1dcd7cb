package registry

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// noCredentials keeps the tests from those of the user who runs them.
func noCredentials(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("REGISTRY_AUTH_FILE", "")
}

// connect opens the repository "x" for pushing, with little patience.
func connect(t *testing.T, host string) *Repository {
	t.Helper()
	r, err := Open(t.Context(), host+"/me/x", Options{Push: true, Patience: 2 * time.Second})
	require.NoError(t, err)
	return r
}

// start is an empty registry and a repository of it.
func start(t *testing.T) (*testenv.Registry, *Repository) {
	t.Helper()
	noCredentials(t)
	reg := testenv.NewRegistry(t)
	return reg, connect(t, reg.Host)
}

func describe(mediaType string, data []byte) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func opener(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// upload brings a blob.
func upload(t *testing.T, r *Repository, data []byte) v1.Descriptor {
	t.Helper()
	d := describe(v1.MediaTypeImageLayer, data)
	require.NoError(t, r.Upload(t.Context(), d, opener(data)))
	return d
}

// image is a manifest of one layer.
func image(t *testing.T, config, layer v1.Descriptor) v1.Manifest {
	t.Helper()
	config.MediaType = v1.MediaTypeImageConfig
	return v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config, Layers: []v1.Descriptor{layer}}
}

// put makes the tag stand for the value as JSON.
func put(t *testing.T, r *Repository, tag, mediaType string, value any) v1.Descriptor {
	t.Helper()
	data, err := json.Marshal(value)
	require.NoError(t, err)
	require.NoError(t, r.PutManifest(t.Context(), tag, mediaType, data))
	return describe(mediaType, data)
}

// serve answers every request for a manifest with data, as if it were of the type.
func serve(reg *testenv.Registry, mediaType string, data string) {
	reg.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if !isManifestRequest(req) {
			next.ServeHTTP(w, req)
			return
		}
		w.Header().Set("Content-Type", mediaType)
		_, _ = io.WriteString(w, data)
	})
}

func isManifestRequest(req *http.Request) bool { return matches(req, http.MethodGet, "/manifests/") }

func isBlobRequest(req *http.Request) bool { return matches(req, http.MethodGet, "/blobs/sha256:") }

func matches(req *http.Request, method, part string) bool {
	return req.Method == method && bytes.Contains([]byte(req.URL.Path), []byte(part))
}

// other is a server on another port that keeps what it was asked.
func other(t *testing.T, answer http.HandlerFunc) (host string, asked *[]http.Header) {
	t.Helper()
	asked = &[]http.Header{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		*asked = append(*asked, req.Header.Clone())
		answer(w, req)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), asked
}
