package engine

import (
	"context"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Progress is told how far a layer has come. It is called by several goroutines, and
// has to return at once.
type Progress func(Step)

// A Step is what there is to tell of a layer.
type Step struct {
	Layer       digest.Digest // as the registry knows it, or the diff ID before it does
	What        string        // "Pulling", "Already exists", …
	Done, Total int64         // bytes; Total is 0 where nothing travels
}

// travellers is how many layers travel, or are unpacked, at a time; docker's number.
const travellers = 3

// counter tells how far the reading of a layer has come. It ends with ctx.
type counter struct {
	r    io.Reader
	ctx  context.Context
	step Step
	tell Progress
}

func (c *counter) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	if n > 0 {
		c.step.Done += int64(n)
		c.tell(c.step)
	}
	return n, err
}

// sideBySide calls fn for every item, some at a time, and returns the first error,
// after which it begins no other and the context of those under way ends.
func sideBySide[T any](ctx context.Context, list []T, fn func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	room := make(chan struct{}, travellers)
	for _, item := range list {
		room <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-room }()
			if err := fn(ctx, item); err != nil {
				cancel(err) // of several the first stays
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
