package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

func TestHas(t *testing.T) {
	_, r := start(t)
	d := upload(t, r, noise(10))
	for blob, want := range map[*v1.Descriptor]bool{&d: true, {Digest: describe("", []byte("absent")).Digest}: false} {
		got, err := r.Has(t.Context(), blob.Digest)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestMount(t *testing.T) {
	reg, r := start(t)
	d := upload(t, r, noise(10))
	far, err := r.Mount(t.Context(), d.Digest, "example.org/me/y")
	require.NoError(t, err)
	require.False(t, far, "of another registry")
	require.Empty(t, reg.Requests("POST /v2/me/x/blobs/uploads/?"), "which is not even asked for")

	for status, want := range map[int]bool{http.StatusCreated: true, http.StatusAccepted: false, http.StatusForbidden: false} {
		reg.Forget()
		reg.Filter(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Location", "/v2/me/x/blobs/uploads/7")
			w.WriteHeader(status)
		})
		got, err := r.Mount(t.Context(), d.Digest, reg.Host+"/you/y")
		require.NoError(t, err)
		require.Equal(t, want, got, status)
		require.Len(t, reg.Requests("POST /v2/me/x/blobs/uploads/?from=you%2Fy&mount=sha256%3A"), 1)
		abandoned := reg.Requests("DELETE /v2/me/x/blobs/uploads/7")
		require.Equal(t, status == http.StatusAccepted, len(abandoned) == 1)
	}
}

// TestUploadIsBegunAgain where the connection breaks in the middle.
func TestUploadIsBegunAgain(t *testing.T) {
	reg, r := start(t)
	data := noise(1_000_000)
	count := 0
	reg.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodPatch {
			if count++; count == 1 {
				_, _ = io.CopyN(io.Discard, req.Body, 1000)
				panic(http.ErrAbortHandler)
			}
		}
		next.ServeHTTP(w, req)
	})
	d := upload(t, r, data)
	require.Equal(t, 2, count)
	got, err := io.ReadAll(r.Blob(t.Context(), d))
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
}

func TestUploadOfNothing(t *testing.T) {
	_, r := start(t)
	d := upload(t, r, nil)
	there, err := r.Has(t.Context(), d.Digest)
	require.NoError(t, err)
	require.True(t, there)
}

func TestUploadOfAnotherDigest(t *testing.T) {
	_, r := start(t)
	d := describe("", []byte("one"))
	require.Error(t, r.Upload(t.Context(), d, opener([]byte("two"))))
	there, err := r.Has(t.Context(), d.Digest)
	require.NoError(t, err)
	require.False(t, there)
}

func TestUploadOfAFileThatIsGone(t *testing.T) {
	_, r := start(t)
	gone := errors.New("gone")
	err := r.Upload(t.Context(), describe("", []byte("x")), func() (io.ReadCloser, error) { return nil, gone })
	require.ErrorIs(t, err, gone)
}

func TestManifestThatIsKeptAsAnother(t *testing.T) {
	reg, r := start(t)
	reg.Filter(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Docker-Content-Digest", describe("", []byte("another")).Digest.String())
		w.WriteHeader(http.StatusCreated)
	})
	require.ErrorIs(t, r.PutManifest(t.Context(), "1", v1.MediaTypeImageManifest, []byte("{}")), ErrCorrupt)
}

func TestTags(t *testing.T) {
	reg, r := start(t)
	m := image(t, upload(t, r, []byte("{}")), upload(t, r, []byte("x")))
	for _, tag := range []string{"1", "2", "latest"} {
		put(t, r, tag, v1.MediaTypeImageManifest, m)
	}
	tags, err := r.Tags(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"1", "2", "latest"}, tags)

	reg.Filter(func(w http.ResponseWriter, req *http.Request, _ http.Handler) { // in pages
		page := req.URL.Query().Get("last")
		if page == "" {
			w.Header().Set("Link", `</v2/me/x/tags/list?last=b>; rel="next"`)
			_, _ = fmt.Fprint(w, `{"tags":["a","b"]}`)
			return
		}
		w.Header().Set("Link", `<http://example.org/v2/me/x/tags/list?last=c>; rel="next"`)
		_, _ = fmt.Fprint(w, `{"tags":["c"]}`)
	})
	tags, err = r.Tags(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c"}, tags, "and nothing is asked elsewhere")
}
