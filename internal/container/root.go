package container

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

// TidyMountPoints removes those that the layers do not have and that nothing was
// put in, and what the container's own files of /etc were mounted on, so that they are
// not taken for a change of the program's. The times of the directories stay.
func TidyMountPoints(upper string, lowers []unionfs.Lower) error {
	root, err := at.OpenRoot(upper)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(root) }() // read only
	return keepTimes(root, func() error {
		if err := tidyEtc(root, lowers); err != nil {
			return err
		}
		for _, name := range mountPoints {
			if err := tidyDirectory(root, name, lowers); err != nil {
				return err
			}
		}
		return nil
	})
}

// tidyEtc does so in /etc, which may be anything by now.
func tidyEtc(root int, lowers []unionfs.Lower) error {
	dir, err := at.OpenDir(root, "etc")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dir) }() // read only
	err = keepTimes(dir, func() error {
		for _, name := range EtcNames() {
			var st unix.Stat_t
			err := at.Stat(dir, name, &st)
			if errors.Is(err, fs.ErrNotExist) || err == nil && (!IsPlaceholder("etc/"+name, &st) || inLayers(lowers, "etc/"+name)) {
				continue
			}
			if err = errors.Join(err, at.Unlink(dir, name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tidyDirectory(root, "etc", lowers)
}

// tidyDirectory removes a directory that the layers do not have, if it is empty.
func tidyDirectory(root int, name string, lowers []unionfs.Lower) error {
	if inLayers(lowers, name) {
		return nil
	}
	err := at.Rmdir(root, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

// keepTimes has a directory have the times that it has after do as well.
func keepTimes(dir int, do func() error) error {
	var before, after unix.Stat_t
	if err := at.Stat(dir, "", &before); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if err := at.Stat(dir, "", &after); err != nil || before.Mtim == after.Mtim {
		return err
	}
	return at.Utimes(dir, "", before.Atim, before.Mtim)
}

func inLayers(lowers []unionfs.Lower, name string) bool {
	for _, l := range lowers {
		if _, err := os.Lstat(filepath.Join(l.Path, name)); err == nil {
			return true
		}
	}
	return false
}
