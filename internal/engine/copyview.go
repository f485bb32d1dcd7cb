package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/layerdb"
	"github.com/varvefs/varve/unionfs"
)

// Replicate is what the hidden verb does that makes the copy of a container that can have
// no other view, whole or not at all. One that is to outlast a power failure, so that the
// upper can be made of it, is on the disk before it has its name. why is what is wrong with
// the kernel's overlayfs; warn is told what it costs before it does.
// Preconditions: nobody else starts or ends the container, and its upper is settled.
func (e *Engine) Replicate(id, why string, warn func(text string)) error {
	spec, err := e.ReadSpec(id)
	if err != nil {
		return err
	}
	chain, err := e.Chain(spec.Layers)
	if err != nil {
		return err
	}
	dir := e.store.ContainerDir(id)
	upper := unionfs.Lower{Path: filepath.Join(dir, container.UpperName)}
	tree, err := unionfs.OpenTree(append([]unionfs.Lower{upper}, chain.Lowers...))
	if err != nil {
		return err
	}
	defer tree.Close()
	size, err := archive.MeasureTree(treeFiles(tree, container.IDs{}))
	if err != nil {
		return err
	}
	if err := checkRoom(dir, size); err != nil {
		return err
	}
	warn(fmt.Sprintf("there is no /dev/fuse, and the kernel's overlayfs can not take its place (%s): "+
		"the container stands on a copy of its files, and each start copies them, %s in %d files; as root, %q ends that",
		why, units.HumanSize(float64(size.Bytes)), size.Files, mendFUSE))
	unripe := filepath.Join(dir, container.UnripeName)
	if err := os.Mkdir(unripe, 0o700); err != nil {
		return err
	}
	err = archive.CopyTree(treeFiles(tree, container.IDs{}), unripe)
	if err == nil && !spec.Remove {
		err = syncFS(unripe)
	}
	if err == nil {
		err = os.Rename(unripe, filepath.Join(dir, container.CopyName))
	}
	if err != nil {
		err = errors.Join(err, removeBelow(dir, container.UnripeName))
	}
	return err
}

// mendFUSE is the command that gives containers views again.
const mendFUSE = "modprobe fuse; chmod 0666 /dev/fuse"

// checkRoom refuses a copy that the file system of dir has no room for, unless it can
// share the data.
func checkRoom(dir string, size archive.TreeSize) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return os.NewSyscallError("statfs", err)
	}
	if st.Files > 0 && st.Ffree < uint64(size.Files) { // btrfs and others do not count inodes
		return fmt.Errorf("%w: %d inodes free, %d needed", layerdb.ErrNoSpace, st.Ffree, size.Files)
	}
	free := st.Bavail * uint64(st.Bsize)
	if uint64(size.Bytes) <= free {
		return nil
	}
	shares, err := canShare(dir)
	if err != nil || shares {
		return err
	}
	return fmt.Errorf("%w: %s free, %s needed", layerdb.ErrNoSpace, units.HumanSize(float64(free)), units.HumanSize(float64(size.Bytes)))
}

// canShare tells whether files on the file system of dir can share their data.
func canShare(dir string) (bool, error) {
	var pair [2]int
	for i := range pair {
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return false, nil // none that can be has no such files
		}
		defer func() { _ = unix.Close(fd) }() // thrown away
		pair[i] = fd
	}
	if _, err := unix.Pwrite(pair[0], make([]byte, 4096), 0); err != nil {
		return false, os.NewSyscallError("pwrite", err)
	}
	return unix.IoctlFileClone(pair[1], pair[0]) == nil, nil
}

// syncFS makes all that was written to the file system of the directory dir durable.
func syncFS(dir string) error {
	fd, err := at.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // a directory
	return os.NewSyscallError("syncfs", unix.Syncfs(fd))
}

// removeBelow removes names of the directory dir, and all below them, if they are there.
func removeBelow(dir string, names ...string) error {
	fd, err := at.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // a directory
	for _, name := range names {
		if err := at.RemoveAll(fd, name); err != nil {
			return err
		}
	}
	return nil
}
