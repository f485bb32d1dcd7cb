package engine

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDownload(t *testing.T) {
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/good":
			_, _ = io.WriteString(w, "content")
		case "/moved":
			http.Redirect(w, r, "/good", http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/short":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "content")
		case "/stalls":
			_, _ = io.WriteString(w, "content")
			w.(http.Flusher).Flush()
			<-stop
		case "/silent":
			<-stop
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	defer close(stop)
	get := func(path string) (string, error) {
		patience := time.Minute
		if path == "/stalls" || path == "/silent" {
			patience = 300 * time.Millisecond
		}
		body, err := download(server.URL+path, patience)
		if err != nil {
			return "", err
		}
		data, err := io.ReadAll(body)
		require.NoError(t, body.Close())
		return string(data), err
	}
	for _, path := range []string{"/good", "/moved"} {
		data, err := get(path)
		require.NoError(t, err)
		require.Equal(t, "content", data)
	}
	for path, want := range map[string]string{
		"/absent": "the server answered 404 Not Found", "/loop": "stopped after 10 redirects",
		"/stalls": "sent nothing for 300ms", "/silent": "sent nothing for 300ms",
	} {
		_, err := get(path)
		require.ErrorContains(t, err, want, path)
	}
	_, err := get("/short")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = download("http://127.0.0.1:1/x", time.Second)
	require.ErrorContains(t, err, "connection refused")
}

func TestShownInput(t *testing.T) {
	require.Equal(t, "http://me:xxxxx@example.org/x", shownInput("http://me:secret@example.org/x"))
	require.Equal(t, "a:b@c", shownInput("a:b@c"))
	require.True(t, strings.HasPrefix(shownInput("-"), "-"))
}
