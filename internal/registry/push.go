package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Has tells whether the repository has a blob.
func (r *Repository) Has(ctx context.Context, blob digest.Digest) (bool, error) {
	found := false
	err := r.persist(ctx, func() error {
		resp, err := r.send(ctx, http.MethodHead, r.url("blobs", blob.String()), nil, http.StatusOK, http.StatusNotFound)
		if err != nil {
			return err
		}
		found = resp.StatusCode == http.StatusOK
		return nil
	})
	return found, r.explain(err)
}

// Mount has the registry take a blob from another of its repositories, named as in
// [Open]. It is false, without an error, where that can not be: the blob is to be
// uploaded then.
func (r *Repository) Mount(ctx context.Context, blob digest.Digest, from string) (bool, error) {
	path, ok := r.sibling(from)
	if !ok {
		return false, nil
	}
	to := r.url("blobs", "uploads", "")
	to.RawQuery = url.Values{"mount": {blob.String()}, "from": {path}}.Encode()
	resp, err := r.send(ctx, http.MethodPost, to, nil, http.StatusCreated, http.StatusAccepted)
	if err != nil {
		return false, ctx.Err() // it may be forbidden to read there, or not known how
	}
	if resp.StatusCode == http.StatusCreated {
		return true, nil
	}
	r.abandon(ctx, resp)
	return false, nil
}

// abandon ends an upload that nobody goes on with.
func (r *Repository) abandon(ctx context.Context, begun *http.Response) {
	if to, err := begun.Location(); err == nil {
		_, _ = r.send(ctx, http.MethodDelete, to, nil, http.StatusNoContent, http.StatusOK) // the registry ends it some day
	}
}

// Upload brings a blob to the registry. open gives its bytes from the beginning; it is
// called again when an attempt was cut.
func (r *Repository) Upload(ctx context.Context, blob v1.Descriptor, open func() (io.ReadCloser, error)) error {
	return r.explain(r.persist(ctx, func() error { return r.upload(ctx, blob, open) }))
}

// upload is one attempt: begin, send all, say what it should have been.
func (r *Repository) upload(ctx context.Context, blob v1.Descriptor, open func() (io.ReadCloser, error)) error {
	begun, err := r.send(ctx, http.MethodPost, r.url("blobs", "uploads", ""), nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	to, err := begun.Location()
	if err != nil {
		return fmt.Errorf("the registry %s does not say where to: %w", r.host(), err)
	}
	sent, err := r.send(ctx, http.MethodPatch, to, &content{"application/octet-stream", blob.Size, open}, http.StatusAccepted, http.StatusNoContent, http.StatusCreated)
	if err != nil {
		return err
	}
	if next, err := sent.Location(); err == nil {
		to = next
	}
	query := to.Query()
	query.Set("digest", blob.Digest.String())
	to.RawQuery = query.Encode()
	_, err = r.send(ctx, http.MethodPut, to, nil, http.StatusCreated, http.StatusNoContent)
	return err
}

// PutManifest makes reference, a tag or the digest of the manifest, stand for the
// manifest with these exact bytes. All that it lists has to be there.
func (r *Repository) PutManifest(ctx context.Context, reference, mediaType string, manifest []byte) error {
	body := &content{mediaType, int64(len(manifest)), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(manifest)), nil
	}}
	return r.explain(r.persist(ctx, func() error {
		resp, err := r.send(ctx, http.MethodPut, r.url("manifests", reference), body, http.StatusCreated, http.StatusOK, http.StatusAccepted)
		if err != nil {
			return err
		}
		got := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
		if want := digest.FromBytes(manifest); checkDigest(got) == nil && got != want {
			return fmt.Errorf("%w: it keeps the manifest %s as %s", ErrCorrupt, want, got)
		}
		return nil
	}))
}

// content is the body of a request.
type content struct {
	mediaType string
	size      int64
	open      func() (io.ReadCloser, error)
}

func (c *content) fill(req *http.Request) (err error) {
	req.Header.Set("Content-Type", c.mediaType)
	if c.size == 0 {
		return nil // a body of unknown length, to package http
	}
	req.ContentLength, req.GetBody = c.size, c.open
	req.Body, err = c.open()
	return err
}

// send makes a request of which only the head of the answer is of use: its body is
// closed already.
func (r *Repository) send(ctx context.Context, method string, to *url.URL, body *content, statuses ...int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, to.String(), nil)
	if err != nil {
		return nil, err
	}
	if body != nil {
		if err := body.fill(req); err != nil {
			return nil, err
		}
	}
	resp, err := r.do(req, statuses...)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	if closeErr := resp.Body.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, &url.Error{Op: method, URL: to.Path, Err: err}
	}
	return resp, nil
}
