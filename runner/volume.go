package runner

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// openVolume opens the host's side of a volume with all that is mounted below
// it. Read-only is set now, when nobody else can reach the mount.
func openVolume(m Mount) (int, error) {
	fd, err := cloneMount(unix.AT_FDCWD, m.Source, unix.AT_RECURSIVE)
	if errors.Is(err, unix.ENOENT) {
		return -1, fmt.Errorf("volume source path does not exist: %s", m.Source)
	}
	if err != nil {
		return -1, fmt.Errorf("open the volume %s: %w", m.Source, err)
	}
	if !m.ReadOnly {
		return fd, nil
	}
	if err = setMountFlags(fd, unix.MOUNT_ATTR_RDONLY, unix.AT_RECURSIVE); err != nil {
		return -1, fmt.Errorf("make the volume %s read-only: %w", m.Source, err)
	}
	return fd, nil
}

// mountVolumes attaches the volumes, those nearer to the root first, as docker
// does: "-v a:/x/y -v b:/x" means y in x.
func mountVolumes(root int, opened []int, mounts []Mount) error {
	turn := make([]int, len(mounts))
	for i := range turn {
		turn[i] = i
	}
	slices.SortStableFunc(turn, func(a, b int) int {
		return cmp.Compare(depth(mounts[a].Target), depth(mounts[b].Target))
	})
	for _, i := range turn {
		if err := mountVolume(root, opened[i], mounts[i].Target); err != nil {
			return fmt.Errorf("mount %s on %s: %w", mounts[i].Source, mounts[i].Target, err)
		}
	}
	return nil
}

func depth(target string) int { return strings.Count(path.Clean(target), "/") }

func mountVolume(root, volume int, target string) error {
	isDir, err := isDirectory(volume)
	if err != nil {
		return err
	}
	var fd int
	if isDir {
		fd, err = at.MakeDirs(root, target, 0o755)
	} else {
		fd, err = at.MakeFile(root, target, 0o755)
	}
	if errors.Is(err, unix.ENOTDIR) {
		return mismatch(err)
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // O_PATH, or empty
	if err = refuseProc(fd); err != nil {
		return err
	}
	if onDir, err := isDirectory(fd); err != nil || onDir != isDir {
		return mismatch(err)
	}
	return attach(volume, fd)
}

func isDirectory(fd int) (bool, error) {
	var st unix.Stat_t
	err := at.Stat(fd, "", &st)
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

func mismatch(err error) error {
	return errors.Join(err, errors.New("are you trying to mount a directory onto a file (or vice-versa)? "+
		"(a dangling symbolic link is not followed either)"))
}

// refuseProc keeps volumes off /proc, also where a symbolic link of the image
// leads there: programs and runtimes trust what they read and write there
// (CVE-2023-27561, CVE-2025-52881).
func refuseProc(fd int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return fmt.Errorf("fstatfs: %w", err)
	}
	if st.Type == unix.PROC_SUPER_MAGIC {
		return errors.New("refused, as the target is inside /proc")
	}
	return nil
}
