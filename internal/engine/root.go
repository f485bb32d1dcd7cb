package engine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/unionfs"
)

// dressRoot gives the upper of a container that never ran the owner, mode and
// times of the layers' root directory, for which it will stand. Owners that this
// process can not give stay its own.
func dressRoot(upper string, lower unionfs.Lower) error {
	list, err := os.ReadDir(upper)
	if err != nil || len(list) > 0 {
		return err
	}
	var st unix.Stat_t
	if err := at.Stat(at.CWD, lower.Path, &st); err != nil {
		return err
	}
	if err := at.Chown(at.CWD, upper, int(st.Uid), int(st.Gid)); err != nil &&
		!errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := at.Chmod(at.CWD, upper, st.Mode&0o7777); err != nil {
		return err
	}
	return at.Utimes(at.CWD, upper, st.Atim, st.Mtim)
}

// mountPoints are made in the root of every container that has none of its own.
var mountPoints = [...]string{"dev", "proc", "sys"}

// tidyMountPoints removes those that the layers do not have and that nothing was
// put in, so that they are not taken for a change of the program's. The times of
// the root stay.
func tidyMountPoints(upper string, lowers []unionfs.Lower) error {
	var st unix.Stat_t
	if err := at.Stat(at.CWD, upper, &st); err != nil {
		return err
	}
	removed := false
	for _, name := range mountPoints {
		if inLayers(lowers, name) {
			continue
		}
		err := os.Remove(filepath.Join(upper, name))
		switch {
		case err == nil:
			removed = true
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTEMPTY):
		default:
			return err
		}
	}
	if !removed {
		return nil
	}
	return at.Utimes(at.CWD, upper, st.Atim, st.Mtim)
}

func inLayers(lowers []unionfs.Lower, name string) bool {
	for _, l := range lowers {
		if _, err := os.Lstat(filepath.Join(l.Path, name)); err == nil {
			return true
		}
	}
	return false
}
