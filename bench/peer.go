package bench

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The names of the peers.
const (
	plain          = "plain"
	overlayfs      = "overlayfs"
	fuseOverlayfs  = "fuse-overlayfs"
	varve          = "varve"
	varveThrough   = "varve io=passthrough"
	varveWriteback = "varve io=writeback"
	varveRing      = "varve transport=uring"
	varveIndex     = "varve with an index"
)

// peer is something that shows a stack.
type peer struct {
	name string
	// start shows the stack below the returned directory.
	start func(s *stack) (*view, error)
	only  []string // the groups it is in; nil: all
}

// view is a stack that is shown.
type view struct {
	root string
	pid  int // of its server; 0 if it has none
	stop func() error
}

// ours tells whether the bars are about this peer.
func (p peer) ours() bool { return strings.HasPrefix(p.name, varve) }

// peers lists all that a comparison knows, those to compare with first; binary is
// this project's.
func peers(binary string) []peer {
	ours := func(name, option string, only ...string) peer {
		return peer{name, program(option, binary, "mount", "-f"), only}
	}
	return []peer{
		{plain, showPlain, nil},
		{overlayfs, mountOverlayfs, nil},
		{fuseOverlayfs, program("", "fuse-overlayfs", "-f"), nil},
		ours(varve, ""),
		ours(varveThrough, ",io=passthrough", "data"),
		ours(varveWriteback, ",io=writeback", "data"),
		ours(varveRing, ",transport=uring"),
		{varveIndex, func(s *stack) (*view, error) {
			return program(",index="+s.index, binary, "mount", "-f")(s)
		}, []string{"names known", "64 layers", memoryGroup}},
	}
}

func (p peer) in(group string) bool { return p.only == nil || slices.Contains(p.only, group) }

// ring is where the kernel says whether FUSE may go over io_uring.
const ring = "/sys/module/fuse/parameters/enable_uring"

// enableRing switches it on, as root, and returns how to put it back.
func enableRing() (restore func() error, err error) {
	before, err := os.ReadFile(ring)
	if err != nil || before[0] == 'Y' {
		return func() error { return nil }, nil // absent, or on: nothing to do
	}
	if err := os.WriteFile(ring, []byte("Y"), 0o644); err != nil {
		return func() error { return nil }, nil // not root: the mount will say what it lacks
	}
	return func() error { return os.WriteFile(ring, before, 0o644) }, nil
}

// mount shows the stack coldly: nobody has served it before, and the kernel has
// dropped its entries and inodes (drop_caches 2, where root runs this). Files in
// memory stay there.
func (p peer) mount(s *stack) (*view, error) {
	if os.Geteuid() == 0 {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0o200); err != nil {
			return nil, err
		}
	}
	return p.start(s)
}

// showPlain is a copy of the tree.
func showPlain(s *stack) (*view, error) {
	dir := s.base + "/plain"
	out, err := exec.Command("cp", "-a", s.tree, dir).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("cp: %w: %s", err, out)
	}
	return &view{root: dir, stop: func() error { return os.RemoveAll(dir) }}, nil
}

// options are those that all union file systems take, with a fresh upper.
func (s *stack) options() (text string, remove func() error, err error) {
	upper, work, remove, err := s.upper()
	return fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(s.lowers, ":"), upper, work), remove, err
}

func mountOverlayfs(s *stack) (*view, error) {
	options, remove, err := s.options()
	if err != nil {
		return nil, err
	}
	if err := unix.Mount("overlay", s.mnt, "overlay", 0, options); err != nil {
		return nil, errors.Join(err, remove())
	}
	return &view{root: s.mnt, stop: func() error {
		return errors.Join(os.NewSyscallError("umount", unix.Unmount(s.mnt, 0)), remove())
	}}, nil
}

// program starts one that mounts in the foreground, to which "-o OPTIONS
// MOUNTPOINT" is added.
func program(option, path string, args ...string) func(s *stack) (*view, error) {
	return func(s *stack) (*view, error) {
		options, remove, err := s.options()
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(path, append(slices.Clone(args), "-o", options+option, s.mnt)...)
		v, err := serve(cmd, s.mnt)
		if err != nil {
			return nil, errors.Join(err, remove())
		}
		stop := v.stop
		v.stop = func() error { return errors.Join(stop(), remove()) }
		return v, nil
	}
}

// serve starts a server in the foreground and waits until it answers.
func serve(cmd *exec.Cmd, mnt string) (*view, error) {
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	before, err := device(mnt)
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := mounted(mnt, before, ended); err != nil {
		_ = cmd.Process.Kill() // it may have ended
		first, _, _ := strings.Cut(strings.TrimSpace(output.String()), "\n")
		return nil, fmt.Errorf("%w: %s", err, first)
	}
	return &view{root: mnt, pid: cmd.Process.Pid, stop: func() error {
		return errors.Join(unmountFUSE(mnt), <-ended)
	}}, nil
}

// device is the device number of the file system that mnt shows.
func device(mnt string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(mnt, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: mnt, Err: err}
	}
	return st.Dev, nil
}

// mounted waits until another file system than before is at mnt.
func mounted(mnt string, before uint64, ended <-chan error) error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		select {
		case err := <-ended:
			return fmt.Errorf("the program ended: %w", err)
		default:
		}
		if now, err := device(mnt); err == nil && now != before {
			return nil
		}
	}
	return errors.New("not mounted after 10 s")
}

func unmountFUSE(mnt string) error {
	if os.Geteuid() == 0 {
		return os.NewSyscallError("umount", unix.Unmount(mnt, 0))
	}
	out, err := exec.Command("fusermount3", "-u", mnt).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fusermount3 -u: %w: %s", err, out)
	}
	return nil
}
