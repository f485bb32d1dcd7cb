package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Blob reads a layer: exactly as many bytes as d says, or an error. A connection
// that breaks or stands still is made again, and goes on where the last one ended.
// That the bytes have the digest is for the reader to check. The reader is the
// caller's to close, and for one goroutine.
func (r *Repository) Blob(ctx context.Context, d v1.Descriptor) io.ReadCloser {
	return &blob{ctx: ctx, repo: r, want: d, moved: time.Now()}
}

// blob is a layer on its way here.
type blob struct {
	ctx  context.Context // of all its connections
	repo *Repository
	want v1.Descriptor

	body     io.ReadCloser // of the connection, nil if there is none
	cancel   context.CancelFunc
	stall    *time.Timer // cancels a connection that stands still
	offset   int64       // what has been read
	moved    time.Time   // when the last byte came
	attempts int         // connections since then
}

// Read gives what the connection gives, and goes on to the next one when it breaks.
func (b *blob) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if b.body == nil {
			if err := b.connect(); err != nil {
				return 0, err
			}
		}
		n, err := b.readOnce(p)
		if b.offset += int64(n); b.offset > b.want.Size {
			return 0, fmt.Errorf("%w: more than the %d bytes that the manifest says", ErrCorrupt, b.want.Size)
		}
		if n > 0 {
			b.moved, b.attempts = time.Now(), 0
			return n, nil
		}
		if b.offset == b.want.Size && err != nil {
			return 0, io.EOF // however the connection ended: all is here
		}
		if err != nil {
			b.disconnect()
			if err := b.again(broken(err)); err != nil {
				return 0, err
			}
		}
	}
	return 0, nil
}

// broken says what happened to a connection in the middle of a layer.
func broken(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("the connection broke: %w", err)
}

// readOnce reads from the connection, and breaks it where nothing comes for half of
// the patience: what is ready then has half of it left. The clock stands while the
// caller is busy.
func (b *blob) readOnce(p []byte) (int, error) {
	b.stall.Reset(b.repo.patience / 2)
	defer b.stall.Stop()
	return b.body.Read(p)
}

// again waits before another attempt, or says that there will be none.
func (b *blob) again(cause error) error {
	switch {
	case b.ctx.Err() != nil:
		return b.ctx.Err()
	case time.Since(b.moved) > b.repo.patience:
		return fmt.Errorf("after %d of %d bytes none came for %v: %w; try again later", b.offset, b.want.Size, b.repo.patience, cause)
	}
	b.attempts++
	return pause(b.ctx, b.attempts-1)
}

// connect asks for the bytes from the offset on, until there is an answer.
func (b *blob) connect() error {
	for {
		err := b.request()
		if err == nil || !temporary(err) {
			return b.repo.explain(err)
		}
		if err := b.again(b.repo.explain(err)); err != nil {
			return err
		}
	}
}

// request makes one connection, which is at the offset when there is no error.
func (b *blob) request() (err error) {
	ctx, cancel := context.WithCancel(b.ctx)
	b.cancel, b.stall = cancel, time.AfterFunc(b.repo.patience/2, cancel)
	defer b.stall.Stop()
	defer func() {
		if err != nil {
			b.disconnect()
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.repo.url("blobs", b.want.Digest.String()).String(), nil)
	if err != nil {
		return err
	}
	if b.offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.offset, b.want.Size-1))
	}
	resp, err := b.repo.do(req, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		return b.explainRange(err)
	}
	b.body = resp.Body
	start, err := b.startOf(resp)
	if err != nil {
		return err
	}
	return b.skip(b.offset - start)
}

// explainRange: the registry's blob is shorter than its manifest says.
func (b *blob) explainRange(err error) error {
	var status *transport.Error
	if errors.As(err, &status) && status.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return fmt.Errorf("%w: it ends before byte %d of %d", ErrCorrupt, b.offset, b.want.Size)
	}
	return err
}

// startOf returns the place in the layer where an answer begins, after a check that
// it is what was asked for.
func (b *blob) startOf(resp *http.Response) (int64, error) {
	start := int64(0)
	if resp.StatusCode == http.StatusPartialContent {
		text := resp.Header.Get("Content-Range")
		if _, err := fmt.Sscanf(text, "bytes %d-", &start); err != nil || start != b.offset {
			return 0, fmt.Errorf("%w: the range %q instead of that from byte %d", ErrCorrupt, text, b.offset)
		}
	}
	if n := resp.ContentLength; n >= 0 && start+n != b.want.Size {
		return 0, fmt.Errorf("%w: %d bytes, where the manifest says %d", ErrCorrupt, start+n, b.want.Size)
	}
	return start, nil
}

// skip leaves out what is here already, where the server does not know ranges.
func (b *blob) skip(n int64) error {
	buf := make([]byte, 64<<10)
	for n > 0 {
		got, err := b.readOnce(buf[:min(n, int64(len(buf)))])
		if n -= int64(got); err != nil && n > 0 {
			return &url.Error{Op: "read", URL: string(b.want.Digest), Err: err}
		}
	}
	return nil
}

func (b *blob) disconnect() {
	if b.cancel != nil {
		b.cancel()
	}
	if b.body != nil {
		_ = b.body.Close() // only read
	}
	b.body, b.cancel = nil, nil
}

// Close ends the connection.
func (b *blob) Close() error {
	b.disconnect()
	return nil
}
