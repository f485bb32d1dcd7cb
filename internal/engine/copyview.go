package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/layerdb"
	"github.com/varvefs/varve/unionfs"
)

// Where there is neither FUSE nor the kernel's overlayfs a container stands on a copy of
// what a view would show. While that is there it is the truth, and the upper is out of
// date; when the container has ended, the upper is made of how the copy differs from the
// chain (settle.go), and the copy goes.
//
// No file of a layer is linked into the copy: a program may write to a file in place, and
// what it writes would be in the layer, under all containers. A read-only container is no
// exception, since `varve cp` may write to it when it does not run. What a file system can
// share safely, it shares (FICLONE).
const (
	copyName     = "copy"      // whole: it was made under the next name, and renamed
	unripeName   = "copy.new"  // a copy that is being made
	spentName    = "copy.gone" // one of which the upper has everything
	newUpperName = "upper.new" // an upper that is being made of a copy
)

// copyView is such a copy at the place of a view.
type copyView struct {
	mountpoint string
	settle     func() error
}

// Unmount makes the upper of the copy, too. No program may run in it any more.
func (v copyView) Unmount() error {
	if err := v.Detach(); err != nil {
		return err
	}
	return v.settle()
}

// Detach leaves the upper as it was before.
func (v copyView) Detach() error {
	return os.NewSyscallError("umount", unix.Unmount(v.mountpoint, unix.MNT_DETACH))
}

// A copyPlan is what a container asks for that can have no other view than a copy.
type copyPlan struct {
	engine     *Engine
	spec       *Spec
	mountpoint string
	lowers     []unionfs.Lower
	warn       func(text string)
}

// mount makes the copy and puts it into place. cause is why there is no better view.
// Preconditions: nobody else starts or ends the container, and its upper is settled.
func (p *copyPlan) mount(cause *noViewError) (view, error) {
	if slices.ContainsFunc(p.lowers, func(l unionfs.Lower) bool { return l.Live || len(l.Cut) > 0 }) {
		return nil, fmt.Errorf("%w; and this machine's own files are not copied", cause)
	}
	if len(p.spec.Sandbox.UIDs) > 0 {
		return nil, fmt.Errorf("%w; nor can a copy", cause)
	}
	if err := p.make(cause); err != nil {
		return nil, fmt.Errorf("%w; and what it stands on can not be copied: %w", cause, err)
	}
	v := copyView{p.mountpoint, func() error { return p.engine.settle(p.spec) }}
	if err := p.bind(); err != nil {
		return nil, fmt.Errorf("stand on the copy: %w", err)
	}
	if err := letExecute(p.mountpoint); err != nil {
		return nil, errors.Join(err, v.Unmount())
	}
	return v, nil
}

func (p *copyPlan) bind() error {
	copied := filepath.Join(p.engine.store.ContainerDir(p.spec.ID), copyName)
	return os.NewSyscallError("mount", unix.Mount(copied, p.mountpoint, "", unix.MS_BIND, ""))
}

// letExecute takes away what the mount has of that of the store. In a user namespace that
// can not be.
func letExecute(mountpoint string) error {
	const flags = unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	err := unix.MountSetattr(unix.AT_FDCWD, mountpoint, 0, &unix.MountAttr{Attr_clr: flags})
	if err == nil || !errors.Is(err, unix.EPERM) {
		return os.NewSyscallError("mount_setattr", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(mountpoint, &st); err != nil {
		return os.NewSyscallError("statfs", err)
	}
	if st.Flags&unix.ST_NOEXEC != 0 {
		return errors.New("the file system of the store is mounted noexec, so no program can be executed there: use another --root")
	}
	return nil
}

// make makes the copy, whole or not at all. One that is to outlast a power failure, so that
// the upper can be made of it, is on the disk before it has its name.
func (p *copyPlan) make(cause *noViewError) (err error) {
	dir := p.engine.store.ContainerDir(p.spec.ID)
	upper := unionfs.Lower{Path: filepath.Join(dir, upperName)}
	tree, err := unionfs.OpenTree(append([]unionfs.Lower{upper}, p.lowers...))
	if err != nil {
		return err
	}
	defer tree.Close()
	size, err := archive.MeasureTree(treeFiles(tree, ids{}))
	if err != nil {
		return err
	}
	if err := checkRoom(dir, size); err != nil {
		return err
	}
	p.warn(fmt.Sprintf("there is no /dev/fuse, and the kernel's overlayfs can not take its place (%v): "+
		"the container stands on a copy of its files, and each start copies them, %s in %d files; as root, %q ends that",
		cause.overlay, units.HumanSize(float64(size.Bytes)), size.Files, mendFUSE))
	unripe := filepath.Join(dir, unripeName)
	if err := os.Mkdir(unripe, 0o700); err != nil {
		return err
	}
	err = archive.CopyTree(treeFiles(tree, ids{}), unripe)
	if err == nil && !p.spec.Remove {
		err = syncFS(unripe)
	}
	if err == nil {
		err = os.Rename(unripe, filepath.Join(dir, copyName))
	}
	if err != nil {
		err = errors.Join(err, removeBelow(dir, unripeName))
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
