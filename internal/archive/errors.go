package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
)

var (
	// ErrNotTar is wrapped when the input is neither a tar nor a compressed one,
	// or stops being one in the middle.
	ErrNotTar = errors.New("not a tar archive")
	// ErrTruncated is wrapped when the input ends too early.
	ErrTruncated = errors.New("the archive is cut short")
	// ErrTooBig is wrapped when a limit of [UnpackOptions] is reached.
	ErrTooBig = errors.New("limit reached")
	// ErrDigest is wrapped when a layer's files no longer give the tar that the
	// layer was made from.
	ErrDigest = errors.New("the layer was changed or damaged")
	// ErrMismatch is wrapped when bytes that come in are not those that were
	// announced by a digest, a size or a name.
	ErrMismatch = errors.New("not what was announced")
	// ErrMediaType is wrapped when a media type is none that could be here, or not
	// that of the bytes it stands for.
	ErrMediaType = errors.New("wrong media type")
	// ErrPlatform is wrapped when an image is not for this machine.
	ErrPlatform = errors.New("the image is for another platform")
)

// readFailure makes a sentence of what archive/tar says. last is the entry before
// or around the failure, "" before the first.
func readFailure(err error, last string) error {
	where := "at its beginning"
	if last != "" {
		where = "at or after the entry " + quote(last)
	}
	switch {
	case errors.Is(err, ErrTruncated):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w %s: fetch or make it again", ErrTruncated, where)
	case errors.Is(err, tar.ErrHeader) && last == "":
		return fmt.Errorf("%w, nor a gzip, zstd, xz or bzip2 of one: %w", ErrNotTar, err)
	case errors.Is(err, tar.ErrHeader):
		return fmt.Errorf("%w %s: %w", ErrNotTar, where, err)
	}
	return err
}
