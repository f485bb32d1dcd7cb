package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/cgroup"
	"github.com/varvefs/varve/runner"
)

// flush has what the programs of the container have written through shared mappings reach
// the upper: the kernel writes that when it likes, and at the latest when the mapping goes.
// (syncfs(2) would do for all files at once, but does not wait for what FUSE has under way.)
// A process of its own does it: this one answers those writes. init is the container's
// process 1, which stands still.
func (s *supervisor) flush(init int) error {
	files, err := mappedFiles(init)
	if err != nil || len(files) == 0 {
		return err
	}
	view := filepath.Join(s.place.ContainerDir(s.spec.ID), ViewName)
	child, err := runner.StartSelf(runner.Self{Args: append([]string{"varve", "flush", view}, files...), Stderr: os.Stderr})
	if err != nil {
		return fmt.Errorf("write what is in mapped files: %w", err)
	}
	code, err := child.Wait()
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	if err != nil {
		return fmt.Errorf("write what is in mapped files: %w", err)
	}
	return nil
}

// mappedFiles are the paths, as the container sees them, of the files that its processes
// have mapped to share. Some may be no files of the view.
func mappedFiles(init int) ([]string, error) {
	pids, err := cgroup.Members(init)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, pid := range pids {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, fmt.Errorf("write what is in mapped files: %w", err)
		}
		for line := range strings.Lines(string(maps)) {
			if path := sharedPath(line); path != "" {
				seen[path] = true
			}
		}
	}
	files := make([]string, 0, len(seen))
	for path := range seen {
		files = append(files, path)
	}
	slices.Sort(files)
	return files, nil
}

// sharedPath is the path in a line of /proc/PID/maps, "" if the mapping is private, or not
// of a file that has a name.
func sharedPath(line string) string {
	start := strings.IndexByte(line, '/')
	field := strings.Fields(line)
	if start < 0 || len(field) < 6 || !strings.HasSuffix(field[1], "s") {
		return ""
	}
	path := strings.TrimSuffix(line[start:], "\n")
	if strings.HasSuffix(path, " (deleted)") {
		return ""
	}
	return strings.ReplaceAll(path, `\012`, "\n")
}

// Flush has the kernel write what was changed in the files of a view. Those that are not
// there are left out.
func Flush(view string, files []string) error {
	root, err := at.OpenRoot(view)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(root) }() // only read
	for _, path := range files {
		fd, err := at.InRoot(root, path, unix.O_RDONLY|unix.O_NONBLOCK)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENXIO) {
			continue
		}
		if err != nil {
			return err
		}
		err = unix.Fsync(fd)
		_ = unix.Close(fd)                    // only read
		if err != nil && err != unix.EINVAL { // of what is no file
			return &os.PathError{Op: "fsync", Path: path, Err: err}
		}
	}
	return nil
}
