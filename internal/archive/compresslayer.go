package archive

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// CompressLayer writes to w, with gzip, the tar of the layer in layerDir, and returns
// the descriptor of what it wrote. The same layer gives the same bytes. The tar is
// checked against want, the layer's diff ID, as [WriteLayer] does. It ends early when
// ctx does.
func CompressLayer(ctx context.Context, w io.Writer, layerDir string, want digest.Digest) (v1.Descriptor, error) {
	sum := &summer{ctx: ctx, w: w, sum: sha256.New()}
	zip := gzip.NewWriter(sum) // without a name or a time in its header
	if err := WriteLayer(zip, layerDir, want); err != nil {
		return v1.Descriptor{}, err
	}
	if err := zip.Close(); err != nil {
		return v1.Descriptor{}, fmt.Errorf("compress layer %s: %w", want, err)
	}
	return v1.Descriptor{
		MediaType: v1.MediaTypeImageLayerGzip,
		Digest:    digest.NewDigestFromBytes(digest.SHA256, sum.sum.Sum(nil)),
		Size:      sum.n,
	}, nil
}

// summer writes, counts and hashes.
type summer struct {
	ctx context.Context // its end is the end of writing
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (s *summer) Write(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.w.Write(p)
	s.sum.Write(p[:n])
	s.n += int64(n)
	return n, err
}
