package whiteout

import (
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// Listing is what one directory of one layer says.
type Listing struct {
	Entries []at.Dirent // the files that are there, whiteouts and markers left out
	Hidden  []string    // names hidden in the layers below; a name may also be in Entries
	Opaque  bool        // the directory has the marker file of the OCI dialect
}

// Read lists the directory behind fd and sorts out the whiteouts of both
// dialects. It moves the position of fd. The opaque attributes are asked for
// separately, by [IsOpaque], since they matter only where layers lie below.
// Types that the file system left unknown are filled in.
func Read(fd int) (Listing, error) {
	all, err := at.ReadDir(fd)
	if err != nil {
		return Listing{}, err
	}
	var l Listing
	l.Entries = all[:0]
	for _, e := range all {
		keep, err := l.sort(fd, &e)
		if err != nil {
			return Listing{}, err
		}
		if keep {
			l.Entries = append(l.Entries, e)
		}
	}
	return l, nil
}

// sort notes what e hides and tells whether it is a file of the layer.
func (l *Listing) sort(fd int, e *at.Dirent) (bool, error) {
	mark, hidden, err := Parse(e.Name)
	if err != nil {
		return false, nil //nolint:nilerr // on disk an impossible whiteout hides nothing; archives refuse it
	}
	switch mark {
	case Hides:
		l.Hidden = append(l.Hidden, hidden)
		return false, nil
	case Opaque:
		l.Opaque = true
		return false, nil
	case Meta:
		return false, nil
	}
	if e.Type != unix.DT_CHR && e.Type != unix.DT_UNKNOWN {
		return true, nil
	}
	var st unix.Stat_t
	if err := at.Stat(fd, e.Name, &st); err != nil {
		if errors.Is(err, unix.ENOENT) { // gone since it was listed
			return false, nil
		}
		return false, err
	}
	if IsDevice(st.Mode, st.Rdev) {
		l.Hidden = append(l.Hidden, e.Name)
		return false, nil
	}
	e.Type = uint8(st.Mode & unix.S_IFMT >> 12)
	return true, nil
}

// IsOpaque tells whether the directory behind fd carries one of the opaque
// attributes. The marker file of the OCI dialect is [Listing.Opaque].
func IsOpaque(fd int) (bool, error) {
	some, err := hasAttrs(fd)
	return some && hasOpaque(fd), err
}

// hasAttrs tells whether the file behind fd has any attribute at all: mostly not,
// and then none has to be asked for by its name.
func hasAttrs(fd int) (bool, error) {
	n, err := unix.Flistxattr(fd, nil)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "listxattr", Path: ".", Err: err}
	}
	return n > 0, nil
}

func hasOpaque(fd int) bool {
	return slices.ContainsFunc(opaqueAttrs[:], func(attr string) bool {
		var v [2]byte
		n, err := unix.Fgetxattr(fd, attr, v[:])
		return err == nil && n == 1 && v[0] == 'y' // absent or unreadable: not opaque
	})
}
