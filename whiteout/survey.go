package whiteout

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// Survey is what one layer, or upper, is made of.
type Survey struct {
	// Dialects are those of the marks, sorted: "fuse-overlayfs", "oci", "overlay".
	Dialects []string `json:"dialects"`
	// Marks are counted by their names: "character device 0/0", ".wh.NAME",
	// ".wh..wh..opq", and the attributes.
	Marks map[string]int `json:"marks"`

	Files       int `json:"files"` // neither directories nor marks
	Directories int `json:"directories"`
	Whiteouts   int `json:"whiteouts"`
	Opaque      int `json:"opaque"`
	Redirects   int `json:"redirects"`
	Metacopy    int `json:"metacopy"` // files that have attributes here and their data below

	// Problems are what should not be so.
	Problems []Finding `json:"problems"`

	bars map[Dialect][]Finding
	inos map[uint64]marked
}

// Finding is one thing about one file. It reads as one line.
type Finding struct {
	Path string `json:"path"` // from the root of the layer; "." is the root
	What string `json:"problem"`
}

func (f Finding) String() string { return fmt.Sprintf("%s: %s", printable(f.Path), f.What) }

// printable is a path as one line can hold it.
func printable(path string) string {
	if quoted := strconv.Quote(path); quoted != `"`+path+`"` {
		return quoted
	}
	return path
}

// marked is a file that an inode number is noted on.
type marked struct {
	path     string
	dev, ino uint64
}

// Bars lists what keeps the layer from being said in a dialect; see [Convert].
func (s *Survey) Bars(to Dialect) []Finding { return s.bars[to] }

// Look surveys the layer whose root is behind root, which stays the caller's. What
// can not be read is a finding, but for the root itself. Symbolic links are not
// followed.
func Look(root int) (*Survey, error) {
	s := &Survey{Marks: map[string]int{}, Problems: []Finding{}, bars: map[Dialect][]Finding{}, inos: map[uint64]marked{}}
	fd, err := at.OpenDir(root, ".") // with a position of its own
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	if err := s.directory(fd, "."); err != nil {
		return nil, err
	}
	s.Dialects = s.dialects()
	return s, nil
}

func (s *Survey) problem(path, format string, args ...any) {
	s.Problems = append(s.Problems, Finding{path, fmt.Sprintf(format, args...)})
}

// bar notes what can be said in no dialect but the one it is in: to names the others.
func (s *Survey) bar(path, what string, to ...Dialect) {
	for _, d := range to {
		s.bars[d] = append(s.bars[d], Finding{path, what})
	}
}

// spoilt is a problem that has to be mended by hand before anything is rewritten.
func (s *Survey) spoilt(path, format string, args ...any) {
	s.problem(path, format, args...)
	s.bar(path, fmt.Sprintf(format, args...), Overlay, OCI)
}

// directory surveys the directory behind fd and what is below it.
func (s *Survey) directory(fd int, place string) error {
	s.Directories++
	list, err := at.ReadDir(fd)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b at.Dirent) int { return strings.Compare(a.Name, b.Name) })
	s.attributes(fd, "", place, unix.S_IFDIR)
	for _, e := range list {
		if err := s.entry(fd, e.Name, path.Join(place, e.Name)); err != nil {
			s.spoilt(path.Join(place, e.Name), "it can not be read: %v", errors.Unwrap(err))
		}
	}
	return nil
}

func (s *Survey) entry(dir int, name, place string) error {
	var st unix.Stat_t
	if err := at.Stat(dir, name, &st); err != nil {
		return err
	}
	mark, hidden, err := Parse(name)
	if err != nil {
		s.spoilt(place, "a whiteout of no possible name")
		return nil
	}
	switch {
	case mark != Plain:
		return s.named(dir, place, mark, hidden, &st)
	case IsDevice(st.Mode, st.Rdev):
		s.Whiteouts++
		s.Marks[markDevice]++
		if len(Prefix)+len(name) > unix.NAME_MAX {
			s.bar(place, "its name is too long for a whiteout of the oci dialect", OCI)
		}
		return nil
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		fd, err := at.OpenDir(dir, name)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }() // read only
		return s.directory(fd, place)
	}
	s.Files++
	s.attributes(dir, name, place, st.Mode&unix.S_IFMT)
	return s.readable(dir, name, &st)
}

const (
	markDevice = "character device 0/0"
	markName   = Prefix + "NAME"
)

// named surveys a mark of the OCI dialect, which is an empty file.
func (s *Survey) named(dir int, place string, mark Mark, hidden string, st *unix.Stat_t) error {
	if mark == Meta {
		return nil // AUFS' own, which nobody reads
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > 0 {
		s.spoilt(place, "it has the name of a whiteout and is no empty file: what is in it is never shown")
	}
	if mark == Opaque {
		s.Opaque++
		s.Marks[OpaqueName]++
		marks, err := ReadMarks(dir)
		if err == nil && marks.Redirect != "" {
			s.spoilt(place, "its directory has a redirect, too: one says that the layers below have no part in it, the other where they have it")
		}
		return err
	}
	s.Whiteouts++
	s.Marks[markName]++
	var other unix.Stat_t
	switch err := at.Stat(dir, hidden, &other); {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return err
	case IsDevice(other.Mode, other.Rdev):
		return nil
	}
	if marks, err := ReadFileMarks(dir, hidden); err == nil && marks.Metacopy {
		s.spoilt(place, "it hides the data of %q, which is only metadata here", hidden)
		return nil
	}
	s.problem(place, "%q, which it hides, is in the same directory", hidden)
	return nil
}

// readable tries to open a regular file. That of this user may be closed to it by
// its mode: a view opens it all the same.
func (s *Survey) readable(dir int, name string, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	fd, err := at.Open(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.EACCES) && int(st.Uid) == unix.Geteuid() {
		return nil
	}
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// dialects are those that the marks are of.
func (s *Survey) dialects() []string {
	found := map[string]bool{}
	for mark := range s.Marks {
		switch {
		case strings.HasPrefix(mark, Prefix):
			found[OCI.String()] = true
		case strings.HasPrefix(mark, fuseOverlayfs):
			found["fuse-overlayfs"] = true
		default:
			found[Overlay.String()] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}
