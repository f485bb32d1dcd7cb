package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/vbatts/tar-split/tar/storage"
)

// maxSegment bounds the raw bytes that are held in memory before they are
// written out: an archive may have any number of headers before one file.
const maxSegment = 1 << 20

// splitter takes a tar as it passes by and writes its tar-split: raw bytes as
// segments, and files as references to where their payload is stored.
//
// tar-split's own packer refuses a path that comes twice; this one writes the
// same format and leaves that to the reader, see [replacements].
type splitter struct {
	file *os.File
	buf  *bufio.Writer
	zip  *gzip.Writer
	enc  *json.Encoder

	position int    // of the next entry
	segment  []byte // raw bytes not written yet
	payload  bool   // what passes by now is the payload of a stored file
	crc      uint64 // of the payload so far
	length   int64  // of the payload so far
	total    int64  // all bytes that passed by
	zeros    int    // how many of the last bytes, outside of payloads, were zero
	err      error  // the first error of writing
}

// newSplitter writes to file, which stays the caller's until Close.
func newSplitter(file *os.File) (*splitter, error) {
	buf := bufio.NewWriterSize(file, 64<<10)
	zip, err := gzip.NewWriterLevel(buf, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("write tar-split: %w", err)
	}
	s := &splitter{file: file, buf: buf, zip: zip, enc: json.NewEncoder(zip)}
	s.enc.SetEscapeHTML(false)
	return s, nil
}

// Write takes the next bytes of the tar. Its error is that of the tar-split file.
func (s *splitter) Write(p []byte) (int, error) {
	s.total += int64(len(p))
	if s.payload {
		s.crc = updateCRC(s.crc, p)
		s.length += int64(len(p))
		return len(p), s.err
	}
	s.countZeros(p)
	s.segment = append(s.segment, p...)
	if len(s.segment) >= maxSegment {
		s.flush()
	}
	return len(p), s.err
}

func (s *splitter) countZeros(p []byte) {
	if n := len(bytes.TrimRight(p, "\x00")); n > 0 {
		s.zeros, p = 0, p[n:]
	}
	s.zeros += len(p)
}

// beginPayload says that the bytes from here on are the payload of a stored file.
func (s *splitter) beginPayload() {
	s.flush()
	s.payload, s.crc, s.length = true, 0, 0
}

// endPayload ends it; path is where the payload is, below diff/.
func (s *splitter) endPayload(path string) error {
	s.payload = false
	return s.entry(path, s.length, binary.BigEndian.AppendUint64(nil, s.crc))
}

// nothing notes an entry without a stored payload. Such entries say nothing that
// the segments do not, but readers of the format expect them.
func (s *splitter) nothing(path string) error {
	s.flush()
	return s.entry(path, 0, nil)
}

func (s *splitter) entry(path string, size int64, sum []byte) error {
	e := storage.Entry{Type: storage.FileType, Size: size, Payload: sum}
	e.SetName(path)
	s.add(e)
	return s.err
}

func (s *splitter) flush() {
	if len(s.segment) > 0 {
		s.add(storage.Entry{Type: storage.SegmentType, Payload: s.segment})
		s.segment = s.segment[:0]
	}
}

func (s *splitter) add(e storage.Entry) {
	if s.err != nil {
		return
	}
	e.Position = s.position
	s.position++
	if err := s.enc.Encode(e); err != nil {
		s.err = fmt.Errorf("write tar-split: %w", err)
	}
}

// finish writes what is left and makes it durable. The file is not closed.
func (s *splitter) finish() error {
	s.flush()
	if s.err != nil {
		return s.err
	}
	if err := errors.Join(s.zip.Close(), s.buf.Flush()); err != nil {
		return fmt.Errorf("write tar-split: %w", err)
	}
	return nil
}
