package registry

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

var (
	errPlain    = errors.New("plain HTTP is refused")
	errRedirect = errors.New("a redirect is refused")
)

// newTransport is what all requests go through in the end: those to the registry,
// to its token service, and to where it redirects.
func newTransport(insecure bool) http.RoundTripper {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 15 * time.Second,
		// A registry may move a large layer to its place before it answers.
		ResponseHeaderTimeout: 5 * time.Minute,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   8,
		ForceAttemptHTTP2:     true,
		// A layer is asked for as it is: its digest is that of the compressed bytes.
		DisableCompression: true,
	}
	if insecure {
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // what --tls-verify=false says
	}
	return transport.NewUserAgent(guard{t, insecure}, "varve")
}

// guard refuses two things that the library lets pass. Plain HTTP to anything but this
// machine, unless it was asked for: the library takes it for private addresses and for
// names in .local, too, which are other machines. And a login that is redirected to
// another host: where a token is exchanged for another, it is in the body of the
// request, which goes along.
type guard struct {
	inner http.RoundTripper
	plain bool
}

func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "http" && !g.plain && !isLoopback(req.URL.Hostname()) {
		return nil, fmt.Errorf("%w to %s: if you trust the network between, use --tls-verify=false", errPlain, req.URL.Host)
	}
	if cause := req.Response; cause != nil && req.URL.Host != cause.Request.URL.Host && isForm(req) {
		return nil, fmt.Errorf("%w: of a login, from %s to %s", errRedirect, cause.Request.URL.Host, req.URL.Host)
	}
	return g.inner.RoundTrip(req)
}

// isForm: nothing but a login is sent as a form.
func isForm(req *http.Request) bool {
	return req.Header.Get("Content-Type") == "application/x-www-form-urlencoded"
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// checkRedirect refuses what a registry elsewhere has no business with: services of
// this machine, and link-local ones, which are those of a cloud's own.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return fmt.Errorf("%w: ten in a row", errRedirect)
	}
	host, from := req.URL.Hostname(), via[0].URL.Hostname()
	addr, err := netip.ParseAddr(host)
	if linkLocal := err == nil && addr.IsLinkLocalUnicast(); host != from && (linkLocal || isLoopback(host) && !isLoopback(from)) {
		return fmt.Errorf("%w: from %s to %s", errRedirect, from, host)
	}
	return nil
}
