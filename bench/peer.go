package bench

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Peer is a union file system that can mount a stack.
type Peer struct {
	Name string
	// argv is a program that mounts in the foreground, to which "-o OPTIONS
	// MOUNTPOINT" is added; empty for the kernel's overlayfs.
	argv []string
}

// Varve is this project's binary at path, as a process of its own.
func Varve(path string) Peer { return Peer{Name: "varve", argv: []string{path, "mount", "-f"}} }

// Peers lists the other union file systems that this process can mount here,
// best known first: kernel overlayfs as root, and fuse-overlayfs.
func Peers() []Peer {
	var list []Peer
	if os.Geteuid() == 0 && kernelHas("overlay") {
		list = append(list, Peer{Name: "overlayfs"})
	}
	if path, err := exec.LookPath("fuse-overlayfs"); err == nil {
		list = append(list, Peer{Name: "fuse-overlayfs", argv: []string{path, "-f"}})
	}
	return list
}

// kernelHas tells whether the kernel knows the file system now; a module that
// is not loaded counts as absent.
func kernelHas(name string) bool {
	data, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if field := strings.Fields(line); len(field) > 0 && field[len(field)-1] == name {
			return true
		}
	}
	return false
}

// Mount mounts the stack with a fresh upper on s.Mnt and returns when it
// answers. The caller calls unmount, which also removes the upper.
func (p Peer) Mount(s *Stack) (unmount func() error, err error) {
	upper, work, remove, err := s.Upper()
	if err != nil {
		return nil, err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(s.Lowers, ":"), upper, work)
	stop, err := p.start(s.Mnt, options)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", p.Name, err), remove())
	}
	return func() error { return errors.Join(stop(), remove()) }, nil
}

func (p Peer) start(mnt, options string) (stop func() error, err error) {
	if p.argv == nil {
		return func() error { return unix.Unmount(mnt, 0) }, unix.Mount("overlay", mnt, "overlay", 0, options)
	}
	var output strings.Builder
	cmd := exec.Command(p.argv[0], append(p.argv[1:len(p.argv):len(p.argv)], "-o", options, mnt)...)
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
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(output.String()))
	}
	return func() error { return errors.Join(unmountFUSE(mnt), <-ended) }, nil
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
