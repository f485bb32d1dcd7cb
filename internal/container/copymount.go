package container

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/runner"
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
	CopyName     = "copy"      // whole: it was made under the next name, and renamed
	UnripeName   = "copy.new"  // a copy that is being made
	SpentName    = "copy.gone" // one of which the upper has everything
	NewUpperName = "upper.new" // an upper that is being made of a copy
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

// mountCopy has a copy made and puts it at the place of the view. cause is why there is no
// better one.
// Preconditions: nobody else starts or ends the container, and its upper is settled.
func (s *supervisor) mountCopy(cause *noViewError, warn func(text string)) (view, error) {
	if slices.ContainsFunc(s.chain.Lowers, func(l unionfs.Lower) bool { return l.Live || len(l.Cut) > 0 }) {
		return nil, fmt.Errorf("%w; and this machine's own files are not copied", cause)
	}
	if len(s.spec.Sandbox.UIDs) > 0 {
		return nil, fmt.Errorf("%w; nor can a copy", cause)
	}
	if err := s.place.haveDone(warn, "replicate", s.spec.ID, cause.overlay.Error()); err != nil {
		return nil, fmt.Errorf("%w; and what it stands on can not be copied: %w", cause, err)
	}
	dir := s.place.ContainerDir(s.spec.ID)
	v := copyView{filepath.Join(dir, ViewName), func() error { return s.place.settleCopy(s.spec.ID) }}
	if err := unix.Mount(filepath.Join(dir, CopyName), v.mountpoint, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("stand on the copy: %w", os.NewSyscallError("mount", err))
	}
	if err := letExecute(v.mountpoint); err != nil {
		return nil, errors.Join(err, v.Unmount())
	}
	return v, nil
}

// settleCopy has the upper made of the copy that a container stood on, if there is one, and
// what is left of others removed.
func (p Place) settleCopy(id string) error {
	for _, name := range []string{CopyName, UnripeName, SpentName, NewUpperName} {
		if _, err := os.Lstat(filepath.Join(p.ContainerDir(id), name)); err == nil {
			return p.haveDone(nil, "settle", id)
		}
	}
	return nil
}

// haveDone has varve do a hidden verb, where this process is and sees. What it prints is told
// to say, line by line; what it complains of is the error.
func (p Place) haveDone(say func(line string), args ...string) error {
	out, printed, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	defer func() { _ = out.Close() }() // only read
	wrong, complaints, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("pipe: %w", err), printed.Close())
	}
	defer func() { _ = wrong.Close() }() // only read
	child, err := runner.StartSelf(runner.Self{
		Program: p.program, Args: append([]string{"varve"}, args...), Env: Environ(p.Root()), Stdout: printed, Stderr: complaints,
	})
	if err = errors.Join(err, printed.Close(), complaints.Close()); err != nil {
		return err
	}
	said := make(chan []byte)
	go func() { text, _ := io.ReadAll(wrong); said <- text }() // to its end
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if say != nil {
			say(lines.Text())
		}
	}
	text := strings.TrimPrefix(strings.TrimSpace(string(<-said)), "varve: ")
	code, err := child.Wait()
	if err == nil && code != 0 {
		err = fmt.Errorf("%s: exit code %d", args[0], code)
		if text != "" {
			err = errors.New(text)
		}
	}
	return err
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
