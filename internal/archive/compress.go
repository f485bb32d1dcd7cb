package archive

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

const (
	// maxWindow bounds the memory that a zstd stream may ask for: 128 MiB is the most
	// that zstd itself makes without --ultra.
	maxWindow = 128 << 20
	// maxDict does so for xz: 64 MiB is what xz -9 needs.
	maxDict = 64 << 20
)

// encoding is how a stream is compressed.
type encoding int

const (
	plain encoding = iota
	gzipped
	zstded
	xzed
	bzip2ed
)

func (e encoding) String() string {
	return [...]string{"not compressed", "gzip", "zstd", "xz", "bzip2"}[e]
}

// magics are the first bytes of each compressed encoding.
func magics() map[encoding][]byte {
	return map[encoding][]byte{
		gzipped: {0x1f, 0x8b},
		zstded:  {0x28, 0xb5, 0x2f, 0xfd},
		xzed:    {0xfd, '7', 'z', 'X', 'Z', 0},
		bzip2ed: {'B', 'Z', 'h'},
	}
}

// detect tells the encoding of a stream from its first bytes, and takes none.
func detect(r *bufio.Reader) (encoding, error) {
	first, err := r.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return plain, fmt.Errorf("read the archive: %w", err)
	}
	for e, magic := range magics() {
		if bytes.HasPrefix(first, magic) {
			return e, nil
		}
	}
	return plain, nil
}

// decompress returns the plain bytes of r, which begins with the magic number of
// a compressed encoding or is plain already. The returned function frees the
// decoder; it does not close r.
func decompress(r io.Reader) (io.Reader, func(), error) {
	br, ok := r.(*bufio.Reader)
	if !ok {
		br = bufio.NewReaderSize(r, 256<<10)
	}
	e, err := detect(br)
	if err != nil {
		return nil, nil, err
	}
	out, free, err := decoder(br, e)
	if err != nil {
		return nil, nil, fmt.Errorf("read the %s header: %w", e, cutShort(err))
	}
	return out, free, nil
}

func decoder(r io.Reader, e encoding) (io.Reader, func(), error) {
	nothing := func() {}
	switch e {
	case gzipped:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { _ = z.Close() }, nil // closes the decoder only; errors came with Read
	case zstded:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case xzed:
		z, err := xz.NewReader(r, maxDict)
		return z, nothing, err
	case bzip2ed:
		return bzip2.NewReader(r), nothing, nil
	}
	return r, nothing, nil
}

// cutShort makes an early end of the input recognisable as ErrTruncated.
func cutShort(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, xz.ErrBuf) {
		return fmt.Errorf("%w: %w", ErrTruncated, io.ErrUnexpectedEOF)
	}
	return err
}
