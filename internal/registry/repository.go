package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Options say how a registry is spoken with. The zero value is right for pulling
// from one that is not trusted.
type Options struct {
	// Insecure takes any certificate, and plain HTTP where there is no TLS.
	Insecure bool
	// Push asks for the right to push, too.
	Push bool
	// From are other repositories of the same registry, from which Mount is to take
	// blobs. Those of other registries are left out.
	From []string
	// Patience is how long a transfer may stand still, over all new attempts,
	// before it is given up. 0 is one minute.
	Patience time.Duration
}

// Repository is an authenticated connection to one repository of a registry. It
// may be used by several goroutines.
type Repository struct {
	name     string // as it was asked for: docker.io/library/alpine
	repo     name.Repository
	client   *http.Client
	patience time.Duration
}

// Open connects to a repository, named in full without a tag, as in
// "docker.io/library/alpine", and logs in if the registry wants that. The errors
// wrap ErrUnreachable or ErrDenied.
func Open(ctx context.Context, repository string, opt Options) (*Repository, error) {
	options := []name.Option{name.StrictValidation}
	if opt.Insecure {
		options = append(options, name.Insecure)
	}
	repo, err := name.NewRepository(repository, options...)
	if err != nil {
		return nil, fmt.Errorf("repository %q: %w", repository, err)
	}
	r := &Repository{name: repository, repo: repo, patience: opt.Patience}
	if r.patience == 0 {
		r.patience = time.Minute
	}
	return r, r.logIn(ctx, opt)
}

func (r *Repository) logIn(ctx context.Context, opt Options) error {
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, r.repo)
	if err != nil {
		return fmt.Errorf("find the credentials for %s: %w", r.host(), err)
	}
	t, err := transport.NewWithContext(ctx, r.repo.Registry, auth, newTransport(opt.Insecure), r.scopes(opt))
	if err != nil {
		return r.explain(err)
	}
	r.client = &http.Client{Transport: t, CheckRedirect: checkRedirect}
	return nil
}

// scopes are the rights that a token service is asked for.
func (r *Repository) scopes(opt Options) []string {
	if !opt.Push {
		return []string{r.repo.Scope(transport.PullScope)}
	}
	scopes := []string{r.repo.Scope(transport.PushScope)}
	for _, other := range opt.From {
		if path, ok := r.sibling(other); ok {
			scopes = append(scopes, r.repo.Registry.Repo(path).Scope(transport.PullScope))
		}
	}
	return scopes
}

// sibling returns the path of another repository in the same registry.
func (r *Repository) sibling(other string) (path string, ok bool) {
	host, path, _ := strings.Cut(other, "/")
	return path, host == r.host() && other != r.name
}

// Name returns the repository as it was asked for.
func (r *Repository) Name() string { return r.name }

// host is the registry as people write it.
func (r *Repository) host() string {
	host, _, _ := strings.Cut(r.name, "/")
	return host
}

// url is the address of something in the repository.
func (r *Repository) url(parts ...string) *url.URL {
	return &url.URL{
		Scheme: r.repo.Scheme(), // the transport knows better, after its first request
		Host:   r.repo.RegistryStr(),
		Path:   "/v2/" + r.repo.RepositoryStr() + "/" + strings.Join(parts, "/"),
	}
}

// do sends a request and refuses answers of another status than these. The answer's
// body is the caller's to close.
func (r *Repository) do(req *http.Request, statuses ...int) (*http.Response, error) {
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, statuses...); err != nil {
		_ = resp.Body.Close() // it was read as far as it is of use
		return nil, err
	}
	return resp, nil
}

// get reads something small, and tries again as long as that may help. The errors
// are explained.
func (r *Repository) get(ctx context.Context, from *url.URL, accept string, most int64) (http.Header, []byte, error) {
	var header http.Header
	var data []byte
	err := r.persist(ctx, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, from.String(), nil)
		if err != nil {
			return err
		}
		if accept != "" {
			req.Header.Set("Accept", accept)
		}
		resp, err := r.do(req, http.StatusOK)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }() // only read
		header = resp.Header
		data, err = io.ReadAll(io.LimitReader(resp.Body, most+1))
		if err != nil {
			return &url.Error{Op: "read", URL: from.Path, Err: err}
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, nil, r.explain(err)
	case int64(len(data)) > most:
		return nil, nil, fmt.Errorf("%w: %s is longer than the %d bytes that are allowed", ErrUnsupported, from.Path, most)
	}
	return header, data, nil
}

// persist calls fn until it succeeds, fails for good, or has failed four times.
func (r *Repository) persist(ctx context.Context, fn func() error) error {
	for attempt := 0; ; attempt++ {
		err := fn()
		if err == nil || !temporary(err) || attempt == 3 || ctx.Err() != nil {
			return err
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// pause waits before an attempt, longer each time, at most five seconds.
func pause(ctx context.Context, attempt int) error {
	timer := time.NewTimer(min(100*time.Millisecond<<min(attempt, 10), 5*time.Second))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
