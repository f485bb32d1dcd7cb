package testenv

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Registry is a registry of images in this process, on 127.0.0.1 and in memory, over
// plain HTTP. It knows every request, and can be made to answer wrongly.
type Registry struct {
	// Host is where it listens: "127.0.0.1:PORT".
	Host string

	inner http.Handler

	mu       sync.Mutex
	requests []string // guarded by mu; "GET /v2/…"
	filter   Filter   // guarded by mu
}

// A Filter stands before a registry: it answers a request by itself, or hands it on
// to next.
type Filter func(w http.ResponseWriter, req *http.Request, next http.Handler)

// NewRegistry starts an empty registry, which ends with the test.
func NewRegistry(t testing.TB) *Registry {
	t.Helper()
	r := &Registry{inner: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.Host = strings.TrimPrefix(server.URL, "http://")
	return r
}

// Filter puts fn before the registry, in the place of the last one; nil is none.
func (r *Registry) Filter(fn Filter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.filter = fn
}

// ClosedPort returns an address of this machine, "127.0.0.1:PORT", where nobody
// listens as long as the test runs.
func ClosedPort(t testing.TB) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})) // taken, and not listened on
	name, err := unix.Getsockname(fd)
	require.NoError(t, err)
	return fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
}

// ServeHTTP answers one request.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, req.Method+" "+req.URL.RequestURI())
	filter := r.filter
	r.mu.Unlock()
	if filter == nil {
		r.inner.ServeHTTP(w, req)
		return
	}
	filter(w, req, r.inner)
}

// Requests lists the requests that have come since Forget and begin with prefix, as
// in "GET /v2/x/blobs/".
func (r *Registry) Requests(prefix string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for _, one := range r.requests {
		if strings.HasPrefix(one, prefix) {
			list = append(list, one)
		}
	}
	return list
}

// Forget begins the list of requests anew.
func (r *Registry) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

// CutAfter returns a writer that passes on n bytes of an answer's body to w, and then
// breaks the connection.
func CutAfter(w http.ResponseWriter, n int) http.ResponseWriter { return &cut{w, n} }

type cut struct {
	http.ResponseWriter
	n int
}

func (c *cut) Write(p []byte) (int, error) {
	if c.n <= len(p) {
		_, _ = c.ResponseWriter.Write(p[:c.n])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.n -= len(p)
	return c.ResponseWriter.Write(p)
}
