package bench

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// snapshot says of each path below a root all that stat(2) and its content show.
type snapshot map[string]string

// look makes the snapshot of a tree. Times from since on are all alike, since each
// visit has its own; so are the sizes and link counts of directories, which are the
// file system's own matter.
func look(root string, since time.Time) (snapshot, error) {
	s := snapshot{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		s[rel], err = describe(path, since)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", root, err)
	}
	return s, nil
}

func describe(path string, since time.Time) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	text := fmt.Sprintf("mode %o, owner %d:%d, device %d, ", st.Mode, st.Uid, st.Gid, st.Rdev)
	if sec, nsec := st.Mtim.Unix(); time.Unix(sec, nsec).Before(since) {
		text += fmt.Sprintf("changed %d.%09d, ", sec, nsec)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		to, err := os.Readlink(path)
		return text + "to " + to, err
	case unix.S_IFREG:
		sum, err := hashFile(path)
		return text + fmt.Sprintf("links %d, size %d, content %x", st.Nlink, st.Size, sum), err
	}
	return text, nil
}

// castagnoli is the sum that processors have an instruction for: what is looked for
// are accidents, in half a gigabyte a visit.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func hashFile(path string) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	h := crc32.New(castagnoli)
	_, err = io.Copy(h, f)
	return h.Sum32(), errors.Join(err, f.Close())
}

// same tells the first difference that it finds, if there is one.
func (s snapshot) same(other snapshot) error {
	for path, is := range s {
		if has := other[path]; has != is {
			return fmt.Errorf("%s: %q instead of %q", path, has, is)
		}
	}
	for path, has := range other {
		if _, known := s[path]; !known {
			return fmt.Errorf("%s: %q instead of nothing", path, has)
		}
	}
	return nil
}
