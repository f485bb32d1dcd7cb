package archive

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// maxPending bounds the memory for directories whose attributes wait.
const maxPending = 512 << 20

// dirs are the directories made so far. Until the end they are 0700 and ours, so
// that files can be made in them, no default ACL or setgid bit reaches those, and
// the times are not changed again.
type dirs struct {
	list    map[string]*attrs
	pending int // bytes of list, about
}

// addDir notes the attributes of the directory at path; later ones win.
func (u *unpacker) addDir(path string, a *attrs) error {
	u.dirs.pending += len(path) + 200
	for attr, value := range a.xattrs {
		u.dirs.pending += len(attr) + len(value) + 50
	}
	if u.dirs.pending > maxPending {
		return fmt.Errorf("%w: too many or too deep directories", ErrTooBig)
	}
	u.dirs.list[path] = a
	return nil
}

// madeDir notes a directory that no entry named so far: root's, 0755, of no time.
func (u *unpacker) madeDir(_ place, _, path string) error {
	return u.addDir(path, &attrs{mode: 0o755})
}

// directory makes a directory, or gives one that is there new attributes.
func (u *unpacker) directory(to target, a *attrs) error {
	err := at.Mkdir(to.parent.fd, to.base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		err = u.directoryOver(to)
	}
	if err != nil {
		return explainName(err)
	}
	return u.addDir(to.path, a)
}

// directoryOver makes a directory where something is already.
func (u *unpacker) directoryOver(to target) error {
	var st unix.Stat_t
	if err := at.Stat(to.parent.fd, to.base, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if err := u.clear(to); err != nil {
		return err
	}
	if err := at.Mkdir(to.parent.fd, to.base, 0o700); err != nil {
		return err
	}
	if u.dialect == whiteout.Overlay && whiteout.IsDevice(st.Mode, st.Rdev) {
		return makeOpaque(u.dialect, to.parent.fd, to.base)
	}
	return nil
}

// finishDirs gives all directories their attributes, the deepest first: a parent
// may become one that we can not enter.
func (u *unpacker) finishDirs() error {
	if _, named := u.dirs.list[""]; !named {
		u.dirs.list[""] = &attrs{mode: 0o755}
	}
	paths := slices.Sorted(maps.Keys(u.dirs.list))
	slices.Reverse(paths)
	for _, path := range paths {
		if err := u.finishDir(path, u.dirs.list[path]); err != nil {
			return fmt.Errorf("directory %s: %w", quote(path), err)
		}
	}
	return nil
}

func (u *unpacker) finishDir(path string, a *attrs) error {
	if path == "" {
		return u.owners.dress(u.dir, diffName, unix.S_IFDIR, a)
	}
	parentPath, base := splitName(path)
	parent, err := u.places.exact(parentPath)
	if err != nil {
		return ignoreGone(err)
	}
	var st unix.Stat_t
	if err := at.Stat(parent.fd, base, &st); err != nil {
		return ignoreGone(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil // replaced by a later entry
	}
	return u.owners.dress(parent.fd, base, unix.S_IFDIR, a)
}

// ignoreGone drops the errors of a directory that a later entry replaced.
func ignoreGone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	return err
}
