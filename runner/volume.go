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
func openVolume(m Mount, noDevices bool) (int, error) {
	below := uint(unix.AT_RECURSIVE)
	if m.NonRecursive {
		below = 0
	}
	fd, err := cloneMount(unix.AT_FDCWD, m.Source, below)
	if errors.Is(err, unix.ENOENT) {
		return -1, fmt.Errorf("volume source path does not exist: %s", m.Source)
	}
	if err != nil {
		return -1, fmt.Errorf("open the volume %s: %w", m.Source, err)
	}
	attrs := uint64(0)
	if m.ReadOnly {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	if noDevices {
		attrs |= unix.MOUNT_ATTR_NODEV
	}
	if attrs == 0 {
		return fd, nil
	}
	if err = setMountFlags(fd, attrs, unix.AT_RECURSIVE); err != nil {
		return -1, fmt.Errorf("make the volume %s read-only, or close it to devices: %w", m.Source, err)
	}
	return fd, nil
}

// openVolumes opens the host's side of all of them.
func openVolumes(list []Mount, noDevices bool) (fds []int, err error) {
	for _, m := range list {
		fd, err := openVolume(m, noDevices)
		if err != nil {
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// mountVolumes attaches the volumes and what is in memory, those nearer to the root
// first, as docker does: "-v a:/x/y -v b:/x" means y in x.
func mountVolumes(root int, out *outside, cfg *Config) error {
	type point struct {
		target, what string
		cover        bool
		open         func() (int, error)
	}
	var list []point
	for i, m := range cfg.Mounts {
		list = append(list, point{m.Target, m.Source, m.Cover, func() (int, error) { return out.volumes[i], nil }})
	}
	for _, t := range cfg.Tmpfs {
		list = append(list, point{t.Target, "tmpfs", false, func() (int, error) { return t.open(cfg.Privileged) }})
	}
	slices.SortStableFunc(list, func(a, b point) int { return cmp.Compare(depth(a.target), depth(b.target)) })
	for _, p := range list {
		fd, err := p.open()
		if err == nil && p.cover {
			err = coverFile(root, fd, p.target)
		} else if err == nil {
			err = mountVolume(root, fd, p.target)
		}
		if err != nil {
			return fmt.Errorf("mount %s on %s: %w", p.what, p.target, err)
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

// options splits those of mount(8) into what the mount has, MOUNT_ATTR_…, and what the
// file system is told. The defaults are docker's.
func (t Tmpfs) options() (attrs int, told []string, err error) {
	attrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	set := map[string]int{"ro": unix.MOUNT_ATTR_RDONLY, "nosuid": unix.MOUNT_ATTR_NOSUID,
		"nodev": unix.MOUNT_ATTR_NODEV, "noexec": unix.MOUNT_ATTR_NOEXEC, "noatime": unix.MOUNT_ATTR_NOATIME}
	clear := map[string]int{"rw": unix.MOUNT_ATTR_RDONLY, "suid": unix.MOUNT_ATTR_NOSUID,
		"dev": unix.MOUNT_ATTR_NODEV, "exec": unix.MOUNT_ATTR_NOEXEC}
	for _, o := range t.Options {
		key, _, _ := strings.Cut(o, "=")
		switch {
		case set[o] != 0:
			attrs |= set[o]
		case clear[o] != 0:
			attrs &^= clear[o]
		case slices.Contains([]string{"size", "mode", "uid", "gid", "nr_inodes"}, key) && key != o:
			told = append(told, o)
		default:
			return 0, nil, fmt.Errorf("invalid tmpfs option [%q] for %s", o, t.Target)
		}
	}
	return attrs, told, nil
}

func (t Tmpfs) open(privileged bool) (int, error) {
	attrs, told, err := t.options()
	if err != nil {
		return -1, err
	}
	if !privileged {
		attrs |= unix.MOUNT_ATTR_NODEV
	}
	return newMount("tmpfs", attrs, append([]string{"mode=1777"}, told...)...)
}

// coverFile puts the file over the name target, whatever that is but a directory. On a
// volume that can not be written and does not have it there is nothing to be covered.
func coverFile(root, file int, target string) error {
	dir, err := at.MakeDirs(root, path.Dir(target), 0o755)
	if errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%s is not a directory (a dangling symbolic link is not followed)", path.Dir(target))
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dir) }() // O_PATH
	if err = refuseProc(dir); err != nil {
		return err
	}
	name := path.Base(target)
	fd, err := at.Open(dir, name, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) {
		fd, err = makeQuietly(dir, name)
	}
	if errors.Is(err, unix.EROFS) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // O_PATH, or empty
	return attach(file, fd)
}

// makeQuietly makes an empty file, and leaves the times of the directory as they were.
func makeQuietly(dir int, name string) (int, error) {
	var st unix.Stat_t
	if err := at.Stat(dir, "", &st); err != nil {
		return -1, err
	}
	fd, err := at.Open(dir, name, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL, 0o755)
	if err != nil {
		return -1, err
	}
	if err = at.Utimes(dir, "", unix.Timespec{Nsec: unix.UTIME_OMIT}, st.Mtim); err != nil {
		_ = unix.Close(fd) // empty
		return -1, err
	}
	return fd, nil
}
