package whiteout

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// Conversion is what [Convert] did.
type Conversion struct {
	Written int `json:"written"` // marks of the new dialect
	Removed int `json:"removed"` // marks of others
}

// ErrBarred is the error of [Convert] for a layer that can not be said in the
// dialect. [Survey.Bars] has the reasons.
var ErrBarred = errors.New("it can not be said in that dialect")

// Convert rewrites the marks of the layer behind root, which stays the caller's, in
// the dialect to, [Overlay] or [OCI]. Nobody else may use the layer meanwhile.
//
// Since both dialects are read at once, the layer means the same at every moment:
// all new marks are written, then made durable, and only then the old ones are
// removed. Who is interrupted, or fails, may just begin again. The times of
// directories stay. A survey comes first: where it finds a bar, nothing is changed.
func Convert(root int, to Dialect) (Conversion, error) {
	c := converter{to: to}
	err := c.convert(root)
	return c.done, err
}

type converter struct {
	to     Dialect
	done   Conversion
	before func() error // tests have it fail before a step
}

func (c *converter) convert(root int) error {
	s, err := Look(root)
	if err != nil {
		return err
	}
	if len(s.Bars(c.to)) > 0 {
		return ErrBarred
	}
	if err := c.mayWrite(root); err != nil {
		return err
	}
	for _, pass := range []func(dir int, names []string) error{c.write, c.remove} {
		if err := c.walk(root, ".", pass); err != nil {
			return err
		}
		if err := unix.Syncfs(root); err != nil {
			return os.NewSyscallError("syncfs", err)
		}
	}
	return nil
}

// probeName is of something that no view shows, for a moment; see [Meta].
const probeName = metaPrefix + ".varve-probe"

// mayWrite tells why marks of the dialect can not be written here. Those of the OCI
// dialect are plain files.
func (c *converter) mayWrite(root int) error {
	if c.to == OCI {
		return nil
	}
	return keepingTimes(root, func() error {
		denied, err := tryOverlay(root, probeName)
		return errors.Join(denied, err)
	})
}

// walk calls pass for each directory of the layer, those below first, with its
// descriptor and the names in it, and keeps its times.
func (c *converter) walk(parent int, name string, pass func(dir int, names []string) error) error {
	fd, err := at.OpenDir(parent, name)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	list, err := at.ReadDir(fd)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name)
		var st unix.Stat_t
		if err := at.Stat(fd, e.Name, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR && !Reserved(e.Name) {
			if err := c.walk(fd, e.Name, pass); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return keepingTimes(fd, func() error { return pass(fd, names) })
}

// keepingTimes does something in a directory that leaves it as it was for who looks
// at the union. The times are set back also if it fails halfway.
func keepingTimes(dir int, change func() error) error {
	var before, after unix.Stat_t
	if err := at.Stat(dir, "", &before); err != nil {
		return err
	}
	err := change()
	if statErr := at.Stat(dir, "", &after); statErr != nil {
		return errors.Join(err, statErr)
	}
	if before.Mtim != after.Mtim {
		err = errors.Join(err, at.Utimes(dir, "", before.Atim, before.Mtim))
	}
	return err
}

func (c *converter) step(count *int, change func() error) error {
	if c.before != nil {
		if err := c.before(); err != nil {
			return err
		}
	}
	if err := change(); err != nil {
		return err
	}
	*count++
	return nil
}

// write says once more, in the new dialect, what the marks of one directory say.
func (c *converter) write(dir int, names []string) error {
	if c.to == OCI {
		return c.writeOCI(dir, names)
	}
	return c.writeOverlay(dir, names)
}

func (c *converter) writeOCI(dir int, names []string) error {
	for _, name := range names {
		is, err := isWhiteoutDevice(dir, name)
		if err != nil {
			return err
		}
		if !is || slices.Contains(names, Prefix+name) {
			continue
		}
		if err := c.step(&c.done.Written, func() error { return OCI.Hide(dir, name) }); err != nil {
			return err
		}
	}
	if !hasOpaque(dir) || slices.Contains(names, OpaqueName) {
		return nil
	}
	return c.step(&c.done.Written, func() error { return OCI.SetOpaque(dir) })
}

func (c *converter) writeOverlay(dir int, names []string) error {
	opaque := slices.Contains(names, OpaqueName) || hasOpaque(dir)
	for _, name := range names {
		mark, hidden, err := Parse(name)
		if err != nil || mark != Hides {
			continue // an error is of a name that hides nothing, and bars the conversion
		}
		if err := c.writeDevice(dir, hidden); err != nil {
			return err
		}
	}
	if !opaque || hasOverlayOpaque(dir) {
		return nil
	}
	return c.step(&c.done.Written, func() error { return Overlay.SetOpaque(dir) })
}

// writeDevice hides name by a device. Where a file of that name is, the whiteout
// says of it that the layers below have no part in it: that is so for any file but a
// directory, which has to be made opaque. One with a redirect is what that says.
func (c *converter) writeDevice(dir int, name string) error {
	var st unix.Stat_t
	err := at.Stat(dir, name, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return c.step(&c.done.Written, func() error { return Overlay.Hide(dir, name) })
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return nil
	}
	fd, err := at.OpenDir(dir, name)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	marks, err := ReadMarks(fd)
	if err != nil || marks.Redirect != "" || hasOverlayOpaque(fd) {
		return err
	}
	return c.step(&c.done.Written, func() error { return Overlay.SetOpaque(fd) })
}

// remove takes the marks of the other dialects away, which the new ones stand in for.
func (c *converter) remove(dir int, names []string) error {
	for _, name := range names {
		old, err := c.isOld(dir, name)
		if err != nil {
			return err
		}
		if !old {
			continue
		}
		if err := c.step(&c.done.Removed, func() error { return at.Unlink(dir, name) }); err != nil {
			return err
		}
	}
	return c.removeAttrs(dir)
}

// isOld tells whether name is a mark of another dialect.
func (c *converter) isOld(dir int, name string) (bool, error) {
	mark, _, err := Parse(name)
	if c.to == OCI {
		if mark != Plain || err != nil {
			return false, nil //nolint:nilerr // see writeOverlay
		}
		return isWhiteoutDevice(dir, name)
	}
	return err == nil && (mark == Hides || mark == Opaque), nil
}

// removeAttrs removes the attributes of other dialects. What a redirect of an opaque
// directory said was nothing, and must not become something: it goes first.
func (c *converter) removeAttrs(dir int) error {
	if !hasOpaque(dir) {
		return nil
	}
	old := []string{opaqueAttrs[2]}
	if c.to == OCI {
		old = append(slices.Clone(redirectAttrs[:]), opaqueAttrs[:]...)
	}
	for _, attr := range old {
		if _, err := at.Getxattr(dir, "", attr); errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
			continue
		}
		if err := c.step(&c.done.Removed, func() error { return at.Removexattr(dir, "", attr) }); err != nil {
			return err
		}
	}
	return nil
}

// isWhiteoutDevice tells whether name in dir is a whiteout of the overlay dialect. By
// a name that begins like one of the OCI dialect it is read as that.
func isWhiteoutDevice(dir int, name string) (bool, error) {
	if strings.HasPrefix(name, Prefix) {
		return false, nil
	}
	var st unix.Stat_t
	err := at.Stat(dir, name, &st)
	return err == nil && IsDevice(st.Mode, st.Rdev), err
}

// hasOverlayOpaque is hasOpaque for the attributes of the kernel alone.
func hasOverlayOpaque(dir int) bool {
	return slices.ContainsFunc(opaqueAttrs[:2], func(attr string) bool {
		value, err := at.Getxattr(dir, "", attr)
		return err == nil && string(value) == "y" // absent or unreadable: not opaque
	})
}
