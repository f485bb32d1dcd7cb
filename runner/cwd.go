package runner

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// enterCwd makes the directory if it is missing, as docker does, and goes there.
// Magic links are refused on the way (CVE-2024-21626: -w /proc/self/fd/7), and
// at the end the kernel is asked whether we are inside, whatever the way was.
func enterCwd(root int, dir string) error {
	if dir == "" {
		dir = "/"
	}
	fd, err := at.MakeDirs(root, dir, 0o755)
	return enterDir(fd, err, dir)
}

// goToCwd is enterCwd for a container that runs: what is missing is not made.
func goToCwd(root int, dir string) error {
	if dir == "" {
		dir = "/"
	}
	fd, err := at.InRoot(root, dir, unix.O_PATH|unix.O_DIRECTORY)
	return enterDir(fd, err, dir)
}

// enterDir goes to the directory that was opened, and explains an error of that.
func enterDir(fd int, err error, dir string) error {
	if errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("the working directory %q is refused: it leads through a link of /proc, or in a circle", dir)
	}
	if errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("the working directory %q is not a directory", dir)
	}
	if err != nil {
		return fmt.Errorf("the working directory %q: %w", dir, err)
	}
	defer func() { _ = unix.Close(fd) }() // O_PATH
	if err = unix.Fchdir(fd); err != nil {
		return fmt.Errorf("the working directory %q: chdir: %w", dir, err)
	}
	_, err = unix.Getwd()
	if errors.Is(err, unix.ENOENT) { // what the kernel calls "(unreachable)/…", or has no name any more
		return fmt.Errorf("the working directory %q is refused: it is outside of the container", dir)
	}
	if err != nil {
		return fmt.Errorf("the working directory %q: getcwd: %w", dir, err)
	}
	return nil
}
