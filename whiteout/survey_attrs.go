package whiteout

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// fuseOverlayfs begins the names of that program's own attributes.
const fuseOverlayfs = "user.fuseoverlayfs."

// attributes surveys the union's attributes of name in dir, or of dir itself.
func (s *Survey) attributes(dir int, name, place string, kind uint32) {
	names, err := at.Listxattr(dir, name)
	if err != nil {
		s.spoilt(place, "its attributes can not be read: %v", errors.Unwrap(err))
		return
	}
	marks := attrMarks{kind: kind}
	for _, attr := range slices.Sorted(slices.Values(names)) {
		if !PrivateAttr(attr) {
			continue
		}
		value, err := at.Getxattr(dir, name, attr)
		if err != nil {
			s.spoilt(place, "attribute %s can not be read: %v", attr, errors.Unwrap(err))
			continue
		}
		switch {
		case slices.Contains(opaqueAttrs[:], attr):
			s.opaque(place, attr, string(value), &marks)
		case slices.Contains(redirectAttrs[:], attr):
			s.redirect(place, attr, string(value), &marks)
		case IsMetacopyAttr(attr):
			s.metacopy(place, attr, &marks)
		case strings.HasSuffix(attr, ".varve.ino"): // see package copyup
			s.ino(dir, name, place, attr, string(value))
		}
	}
	s.together(place, &marks)
}

// attrMarks are what the attributes of one file say.
type attrMarks struct {
	kind                       uint32 // S_IFMT
	opaque, redirect, metacopy bool
}

func (s *Survey) opaque(place, attr, value string, m *attrMarks) {
	switch {
	case m.kind != unix.S_IFDIR:
		s.problem(place, "attribute %s makes a directory opaque, and it is none", attr)
	case value != "y":
		s.problem(place, "attribute %s has the value %q, which means nothing here: it is \"y\"", attr, value)
	default:
		s.Marks[attr]++
		m.opaque = true
	}
}

func (s *Survey) redirect(place, attr, value string, m *attrMarks) {
	s.Marks[attr]++
	m.redirect = true
	if reason := badRedirect(value); reason != "" {
		s.problem(place, "attribute %s leads to %q, which %s", attr, value, reason)
	}
}

// badRedirect tells what is wrong with a redirect: it is a path from the root of the
// union, or one name.
func badRedirect(value string) string {
	target, rooted := strings.CutPrefix(value, "/")
	switch {
	case value == "":
		return "is empty"
	case !rooted && strings.Contains(value, "/"):
		return "is neither one name nor a path that begins with a slash"
	case rooted && target == "":
		return "" // the root itself
	}
	for name := range strings.SplitSeq(target, "/") {
		switch {
		case name == "..":
			return "leaves the layers"
		case !isName(name):
			return "is no path: a name in it is empty, or can be none"
		}
	}
	return ""
}

func (s *Survey) metacopy(place, attr string, m *attrMarks) {
	s.Marks[attr]++
	m.metacopy = true
	if m.kind != unix.S_IFREG {
		s.problem(place, "attribute %s says that the data is below, and it is no regular file", attr)
	}
}

// together looks at what the attributes of one file make together.
func (s *Survey) together(place string, m *attrMarks) {
	if m.opaque {
		s.Opaque++
	}
	if m.metacopy {
		s.Metacopy++
		s.bar(place, "its data is in the layers below (metacopy), which the oci dialect can not say", OCI)
	}
	switch {
	case !m.redirect:
	case m.opaque:
		s.problem(place, "it has a redirect, which means nothing for an opaque directory")
	case m.kind != unix.S_IFDIR && !m.metacopy:
		s.problem(place, "it has a redirect, and is neither a directory nor a file whose data is below")
	default:
		s.Redirects++
		s.bar(place, "it is somewhere else in the layers below (redirect), which the oci dialect can not say", OCI)
	}
}

// ino surveys an inode number that was noted when a file was brought up. The names
// of a hard link have one, and nothing else has the same.
func (s *Survey) ino(dir int, name, place, attr, value string) {
	number, err := strconv.ParseUint(value, 10, 64)
	if err != nil || number == 0 {
		s.problem(place, "attribute %s has the value %q, which is no inode number", attr, value)
		return
	}
	var st unix.Stat_t
	if err := at.Stat(dir, name, &st); err != nil {
		s.spoilt(place, "it can not be read: %v", errors.Unwrap(err))
		return
	}
	first, known := s.inos[number]
	switch {
	case !known:
		s.inos[number] = marked{place, st.Dev, st.Ino}
	case first.dev != st.Dev || first.ino != st.Ino:
		s.problem(place, "it is to be shown with inode number %d, as %s is, which is another file", number, printable(first.path))
	}
}
