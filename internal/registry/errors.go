package registry

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

var (
	// ErrNotFound is wrapped when the registry does not have what was asked for.
	ErrNotFound = errors.New("not found in the registry")
	// ErrDenied is wrapped when the registry wants other credentials, or any.
	ErrDenied = errors.New("access denied")
	// ErrUnreachable is wrapped when no answer came from the registry.
	ErrUnreachable = errors.New("cannot reach the registry")
	// ErrCorrupt is wrapped when what came is not what its digest or its size says.
	ErrCorrupt = errors.New("the registry sent something else than was asked for")
	// ErrUnsupported is wrapped when the registry has something that is no image
	// for us.
	ErrUnsupported = errors.New("not an image that varve can use")
	// ErrPlatform is wrapped when there is no image for the platform.
	ErrPlatform = errors.New("no image for this platform")
)

// explain makes a sentence of what the transport says, without the URL: people
// asked for a name, and the address of a redirect may hold a signature.
func (r *Repository) explain(err error) error {
	var status *transport.Error
	var broken *url.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &status):
		return r.explainStatus(status)
	case errors.As(err, &broken):
		return r.explainBroken(broken.Err)
	}
	return err
}

func (r *Repository) explainStatus(e *transport.Error) error {
	said := http.StatusText(e.StatusCode)
	if len(e.Errors) > 0 {
		said = e.Errors[0].String()
	}
	switch e.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("%w: %s: %s", ErrNotFound, r.name, said)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: %s: the repository does not exist or may require 'docker login' (%s)", ErrDenied, r.name, said)
	case http.StatusTooManyRequests:
		return fmt.Errorf("the registry %s wants fewer requests (%s): log in, or try later", r.host(), said)
	}
	return fmt.Errorf("the registry %s says: %d %s", r.host(), e.StatusCode, said)
}

func (r *Repository) explainBroken(err error) error {
	var unknown x509.UnknownAuthorityError
	var certificate x509.CertificateInvalidError
	var other x509.HostnameError
	switch {
	case errors.Is(err, errPlain), errors.Is(err, errRedirect):
		return err
	case errors.As(err, &unknown), errors.As(err, &certificate), errors.As(err, &other):
		return fmt.Errorf("%w %s safely: %w; if you trust the network between, use --tls-verify=false", ErrUnreachable, r.host(), err)
	}
	return fmt.Errorf("%w %s: %w", ErrUnreachable, r.host(), err)
}

// temporary tells whether the same request may succeed later.
func temporary(err error) bool {
	var status *transport.Error
	if errors.As(err, &status) {
		return status.StatusCode >= 500 || status.StatusCode == http.StatusTooManyRequests || status.StatusCode == http.StatusRequestTimeout
	}
	var broken *url.Error
	return errors.As(err, &broken) && !errors.Is(err, errPlain) && !errors.Is(err, errRedirect)
}
