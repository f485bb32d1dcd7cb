package archive

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/storage"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// WriteLayer writes to w the tar that the layer in layerDir was made from, byte
// for byte. If what was written does not have the digest want, the error wraps
// ErrDigest and what w got is to be thrown away. It may be called by several
// goroutines for the same layer.
func WriteLayer(w io.Writer, layerDir string, want digest.Digest) error {
	s, err := openSplit(layerDir)
	if err != nil {
		return fmt.Errorf("read layer %s: %w", want, err)
	}
	defer s.close()
	sum := sha256.New()
	if err := s.assemble(io.MultiWriter(w, sum)); err != nil {
		return fmt.Errorf("read layer %s: %w", want, err)
	}
	if got := digest.NewDigestFromBytes(digest.SHA256, sum.Sum(nil)); got != want {
		return fmt.Errorf("%w: its tar has the digest %s instead of %s", ErrDigest, got, want)
	}
	return nil
}

// TarSize returns the length in bytes of the tar that WriteLayer writes. It reads
// the tar-split only.
func TarSize(layerDir string) (int64, error) {
	s, err := openSplit(layerDir)
	if err != nil {
		return 0, fmt.Errorf("read layer: %w", err)
	}
	defer s.close()
	size := int64(0)
	for {
		e, err := s.next()
		if err == io.EOF {
			return size, nil
		}
		if err != nil {
			return 0, fmt.Errorf("read layer: %w", err)
		}
		if e.Type == storage.SegmentType {
			size += int64(len(e.Payload))
		} else {
			size += e.Size
		}
	}
}

// CheckLayer tells whether every file that the layer's tar has is there, and has its
// size. It reads the tar-split and looks at the files, but does not read them. The
// error wraps ErrDigest, or is that of a system call.
func CheckLayer(layerDir string) error {
	s, err := openSplit(layerDir)
	if err != nil {
		return fmt.Errorf("read layer: %w", err)
	}
	defer s.close()
	for {
		e, err := s.next()
		if err == io.EOF {
			return nil
		}
		if err == nil && e.Type == storage.FileType && e.Size > 0 {
			if err = s.look(e); err != nil {
				err = fmt.Errorf("file %q: %w", e.GetName(), err)
			}
		}
		if err != nil {
			return err
		}
	}
}

// look opens the file of an entry, and closes it.
func (s *split) look(e *storage.Entry) error {
	file, err := s.openFile(e)
	if err != nil {
		return err
	}
	return file.Close()
}

// split reads what a splitter wrote.
type split struct {
	dir  int // the layer directory
	kept kept
	file *os.File
	dec  *json.Decoder
	buf  []byte
}

func openSplit(layerDir string) (*split, error) {
	dir, err := at.OpenRoot(layerDir)
	if err != nil {
		return nil, err
	}
	s := &split{dir: dir}
	if err := s.open(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *split) open() error {
	fd, err := at.Open(s.dir, indexName, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	s.file = os.NewFile(uintptr(fd), indexName)
	zip, err := gzip.NewReader(bufio.NewReaderSize(s.file, 64<<10))
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDigest, indexName, err)
	}
	s.dec = json.NewDecoder(zip)
	s.kept, err = readKept(s.dir)
	return err
}

func (s *split) close() {
	_ = unix.Close(s.dir) // read only
	if s.file != nil {
		_ = s.file.Close() // read only
	}
}

// next returns the next entry, or io.EOF.
func (s *split) next() (*storage.Entry, error) {
	var e storage.Entry
	err := s.dec.Decode(&e)
	switch {
	case err == io.EOF:
		return nil, io.EOF
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrDigest, indexName, err)
	case e.Size < 0, e.Type != storage.FileType && e.Type != storage.SegmentType:
		return nil, fmt.Errorf("%w: %s has an impossible entry", ErrDigest, indexName)
	}
	return &e, nil
}

func (s *split) assemble(w io.Writer) error {
	s.buf = make([]byte, chunkSize)
	for {
		e, err := s.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if e.Type == storage.SegmentType {
			if _, err := w.Write(e.Payload); err != nil {
				return err
			}
			continue
		}
		if e.Size == 0 {
			continue
		}
		if err := s.payload(w, e); err != nil {
			return fmt.Errorf("file %q: %w", e.GetName(), err)
		}
	}
}

// payload writes the file that the entry refers to, and checks that it is still
// the one that was stored.
func (s *split) payload(w io.Writer, e *storage.Entry) error {
	file, err := s.openFile(e)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // read only
	return s.copy(w, file, e)
}

// openFile opens the file that the entry refers to, if it is one of its size.
func (s *split) openFile(e *storage.Entry) (*os.File, error) {
	where := s.kept.locate(e.Position, e.GetName())
	// O_NONBLOCK: a FIFO in the place of the file must not stop us.
	fd, err := at.Beneath(s.dir, where, unix.O_RDONLY|unix.O_NONBLOCK)
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w: %w", ErrDigest, err)
	}
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), where)
	info, err := file.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != e.Size) {
		err = fmt.Errorf("%w: it is no longer a file of %d bytes", ErrDigest, e.Size)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func (s *split) copy(w io.Writer, file io.Reader, e *storage.Entry) error {
	crc := uint64(0)
	for left := e.Size; left > 0; {
		n, err := file.Read(s.buf[:min(left, int64(len(s.buf)))])
		if n == 0 && err != nil {
			return fmt.Errorf("%w: %w", ErrDigest, err)
		}
		crc = updateCRC(crc, s.buf[:n])
		if _, err := w.Write(s.buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	if len(e.Payload) != 8 || binary.BigEndian.Uint64(e.Payload) != crc {
		return fmt.Errorf("%w: its checksum differs", ErrDigest)
	}
	return nil
}
