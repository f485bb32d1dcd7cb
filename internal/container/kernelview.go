package container

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/runner"
	"github.com/varvefs/varve/unionfs"
	"github.com/varvefs/varve/whiteout"
)

// A view is what a container has as its root, until it is unmounted, or detached: that does
// not wait for its end.
type view interface {
	Unmount() error
	Detach() error
}

// kernelView is the kernel's overlayfs in the place of a view of ours, where there is no
// /dev/fuse. What it writes to the upper is what a view writes: a whiteout is a device, an
// opaque directory has an attribute.
type kernelView struct{ mountpoint string }

func (v kernelView) Unmount() error {
	return os.NewSyscallError("umount", unix.Unmount(v.mountpoint, unix.MNT_DETACH))
}

func (v kernelView) Detach() error { return v.Unmount() }

// noFUSE tells whether this user can not have a view of ours: /dev/fuse can not be opened,
// or is something else.
func noFUSE() bool {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFCHR
}

// A noViewError says why there is neither a view of ours nor the kernel's overlayfs.
type noViewError struct{ fuse, overlay error }

func (e *noViewError) Error() string {
	return fmt.Sprintf("%v; and the kernel's overlayfs can not take its place: %v", e.fuse, e.overlay)
}

func (e *noViewError) Unwrap() []error { return []error{e.fuse, e.overlay} }

// mountKernel mounts the kernel's overlayfs for what a view of ours was asked for. cause is
// why there is none. The error is a [noViewError].
func mountKernel(mountpoint string, opt unionfs.Options, cause error) (view, error) {
	fail := func(err error) error { return &noViewError{cause, err} }
	if slices.ContainsFunc(opt.Lowers, func(l unionfs.Lower) bool { return l.Live || len(l.Cut) > 0 }) {
		return nil, fail(errors.New("it can not show this machine's own files"))
	}
	if len(opt.UIDs) > 0 {
		return nil, fail(errors.New("it can not show owners as those of another user namespace: leave out --userns"))
	}
	if opt.Override == unionfs.OverrideUser {
		name, err := unionfs.FindStandIn(append([]unionfs.Lower{{Path: opt.Upper}}, opt.Lowers...))
		if err == nil && name != "" {
			err = fmt.Errorf("it can not show /%s, which keeps its owner in a file that stands for it", name)
		}
		if err != nil {
			return nil, fail(err)
		}
	}
	text, files, err := overlayOptions(&opt)
	defer CloseAll(files)
	if err != nil {
		return nil, fail(err)
	}
	err = unix.Mount("varve", mountpoint, "overlay", unix.MS_NOATIME, text)
	if errors.Is(err, unix.ENODEV) {
		err = errors.New("it is not there: \"modprobe overlay\" as root")
	}
	if err != nil {
		return nil, fail(err)
	}
	return kernelView{mountpoint}, nil
}

// overlayOptions names the directories by descriptors, so that the paths of many layers have
// room on the one page that mount(2) takes.
func overlayOptions(opt *unionfs.Options) (text string, files []*os.File, err error) {
	name := func(path string) string {
		fd, openErr := at.OpenRoot(path)
		if err = errors.Join(err, openErr); openErr != nil {
			return ""
		}
		f := os.NewFile(uintptr(fd), path)
		files = append(files, f)
		return fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	}
	lowers := make([]string, len(opt.Lowers))
	for i, l := range opt.Lowers {
		lowers[i] = name(l.Path)
	}
	text = "lowerdir=" + strings.Join(lowers, ":") + ",upperdir=" + name(opt.Upper) + ",workdir=" + name(opt.Work) +
		",metacopy=off,index=off"
	if err != nil {
		return "", files, err
	}
	if ns, err := runner.CurrentUserns(); err != nil {
		return "", files, err
	} else if ns == nil {
		text += ",redirect_dir=off"
	} else {
		text += ",userxattr" // without redirects
	}
	dialect, err := whiteout.Probe(int(files[len(files)-1].Fd()))
	if err == nil && dialect != whiteout.Overlay {
		err = errors.New("the file system of the store does not hold its whiteouts")
	}
	if len(text) >= os.Getpagesize() {
		err = errors.Join(err, fmt.Errorf("there are too many layers: %d", len(lowers)))
	}
	return text, files, err
}
