package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The bounds of an archive of images, apart from its layers. docker writes three
// entries a layer; the longest names it writes have 90 bytes.
const (
	maxFiles    = 20_000
	maxFileName = 1024
	maxMeta     = 2 << 20 // of one manifest or index
	maxHops     = 10      // of links between entries
)

// entries are the files of a tar that lies in a file: where each begins, so that
// they can be read in any order and more than once.
type entries struct {
	file *os.File
	list map[string]span
}

// span is one file of the tar, or a link to another one.
type span struct {
	offset, size int64
	link         string // the clean name of another entry; "" for a file
}

// readEntries looks through the tar in file, which is not compressed.
func readEntries(file *os.File) (*entries, error) {
	e := &entries{file: file, list: map[string]span{}}
	total, err := file.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, fmt.Errorf("read the archive: %w", err)
	}
	end, last := int64(0), ""
	for r := tar.NewReader(file); ; {
		hdr, err := r.Next()
		if err == io.EOF {
			return e, checkEndMark(total, end, last)
		}
		if err != nil {
			return nil, readFailure(err, last)
		}
		if end, err = e.add(hdr); err != nil {
			return nil, fmt.Errorf("entry %s: %w", quote(hdr.Name), err)
		}
		last = hdr.Name
	}
}

// checkEndMark tells a whole tar from one that was cut between two entries.
func checkEndMark(total, end int64, last string) error {
	switch {
	case total == 0:
		return fmt.Errorf("%w: the input is empty", ErrNotTar)
	case total < end+512:
		return fmt.Errorf("%w after the entry %s: its end mark is missing", ErrTruncated, quote(last))
	}
	return nil
}

// add notes the entry at whose content the file stands, and returns where its last
// block ends.
func (e *entries) add(hdr *tar.Header) (end int64, err error) {
	if len(hdr.Name) > maxFileName || len(hdr.Linkname) > maxFileName {
		return 0, unsafeEntry("its name is longer than %d bytes", maxFileName)
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return 0, err
	}
	s := span{size: hdr.Size}
	if s.offset, err = e.file.Seek(0, io.SeekCurrent); err != nil {
		return 0, err
	}
	end = s.offset + (s.size+511)&^511
	switch hdr.Typeflag {
	case tar.TypeReg:
		for key := range hdr.PAXRecords {
			if strings.HasPrefix(key, "GNU.sparse.") {
				return 0, unsafeEntry("it is sparse, as no archive of images is")
			}
		}
	case tar.TypeSymlink, tar.TypeLink:
		s.link, err = linkTarget(name, hdr)
	case tar.TypeDir:
		return end, nil
	default:
		return 0, unsafeEntry("it is neither a file, a directory nor a link")
	}
	if err != nil {
		return 0, err
	}
	if _, twice := e.list[name]; twice {
		return 0, unsafeEntry("another one has its name")
	}
	if len(e.list) >= maxFiles {
		return 0, fmt.Errorf("%w: more than %d files", ErrTooBig, maxFiles)
	}
	e.list[name] = s
	return end, nil
}

// linkTarget is the name of the entry that a link leads to. docker before 25 and
// podman link layers that are the same: "../ID/layer.tar".
func linkTarget(name string, hdr *tar.Header) (string, error) {
	if hdr.Typeflag == tar.TypeLink {
		return cleanName(hdr.Linkname)
	}
	if strings.HasPrefix(hdr.Linkname, "/") {
		return "", unsafeEntry("it is a link to the absolute path %s", quote(hdr.Linkname))
	}
	dir, _ := splitName(name)
	for rest := hdr.Linkname; ; {
		up, ok := strings.CutPrefix(rest, "../")
		if !ok {
			target, err := cleanName(rest)
			return joinName(dir, target), err
		}
		if dir == "" {
			return "", unsafeEntry("it is a link out of the archive: %s", quote(hdr.Linkname))
		}
		dir, _ = splitName(dir)
		rest = up
	}
}

// find returns where the file of this name is.
func (e *entries) find(unsafeName string) (span, error) {
	name, err := cleanName(unsafeName)
	if err != nil {
		return span{}, fmt.Errorf("file %s: %w", quote(unsafeName), err)
	}
	for range maxHops {
		s, ok := e.list[name]
		if !ok {
			return span{}, fmt.Errorf("%w: %s", errAbsent, quote(unsafeName))
		}
		if s.link == "" {
			return s, nil
		}
		name = s.link
	}
	return span{}, fmt.Errorf("file %s: %w", quote(unsafeName), unsafeEntry("more than %d links lead to it", maxHops))
}

// errAbsent: a file that another one speaks of is not in the archive.
var errAbsent = errors.New("the archive lacks the file")

func (e *entries) has(name string) bool {
	_, ok := e.list[name]
	return ok
}

func (e *entries) open(s span) io.Reader { return io.NewSectionReader(e.file, s.offset, s.size) }

// read returns a small file whole.
func (e *entries) read(name string, most int64) ([]byte, error) {
	s, err := e.find(name)
	if err != nil {
		return nil, err
	}
	if s.size > most {
		return nil, fmt.Errorf("file %s: %w: it has %d bytes, %d are allowed", quote(name), ErrTooBig, s.size, most)
	}
	data := make([]byte, s.size)
	if _, err := io.ReadFull(e.open(s), data); err != nil {
		return nil, fmt.Errorf("file %s: %w", quote(name), cutShort(err))
	}
	return data, nil
}

// blob finds the blob of a digest, which is checked before it becomes a name.
func (e *entries) blob(d digest.Digest) (span, error) {
	if err := checkDigest(d); err != nil {
		return span{}, err
	}
	return e.find(blobName(d))
}
