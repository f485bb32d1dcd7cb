package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// stall is how long a server may be silent, before it answers and between two
// pieces of what it sends.
const stall = time.Minute

// openInput opens what is imported: a file, "-" for stdin, or a URL.
func openInput(file string) (io.ReadCloser, error) {
	switch {
	case file == "-":
		return io.NopCloser(os.Stdin), nil
	case isURL(file):
		return download(file, stall)
	}
	return os.Open(file)
}

func isURL(file string) bool {
	return strings.HasPrefix(file, "http://") || strings.HasPrefix(file, "https://")
}

// shownInput is the name of an input for history and errors: a password in a URL is
// not for others.
func shownInput(file string) string {
	if u, err := url.Parse(file); isURL(file) && err == nil {
		return u.Redacted()
	}
	return file
}

// download begins to fetch a URL. Who reads gets an error if the server sends
// nothing for the time patience, or less than it announced.
func download(address string, patience time.Duration) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	d := &downloadBody{cancel: cancel, patience: patience}
	d.timer = time.AfterFunc(patience, func() { cancel(fmt.Errorf("the server sent nothing for %s", patience)) })
	err := d.get(ctx, address)
	if err != nil {
		err = errors.Join(d.cause(ctx, err), d.Close())
		return nil, err
	}
	d.ctx = ctx
	return d, nil
}

// downloadBody is the body of an answer.
type downloadBody struct {
	ctx      context.Context //nolint:containedctx // of the one request that this is
	cancel   context.CancelCauseFunc
	timer    *time.Timer
	patience time.Duration
	body     io.ReadCloser
}

func (d *downloadBody) get(ctx context.Context, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableCompression: true, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	d.body = resp.Body
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("fetch %s: the server answered %s", req.URL.Redacted(), resp.Status)
	}
	return nil
}

// cause says why a request was given up, if we did it.
func (d *downloadBody) cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("download: %w", context.Cause(ctx))
	}
	return err
}

func (d *downloadBody) Read(p []byte) (int, error) {
	d.timer.Reset(d.patience)
	n, err := d.body.Read(p)
	d.timer.Stop()
	if err != nil && err != io.EOF {
		err = d.cause(d.ctx, err)
	}
	return n, err
}

// Close ends the request.
func (d *downloadBody) Close() error {
	d.timer.Stop()
	d.cancel(nil)
	if d.body == nil {
		return nil
	}
	return d.body.Close()
}
