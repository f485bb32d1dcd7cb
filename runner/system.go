package runner

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// mountSystem attaches /proc, /sys and /dev and fills the latter. It returns a
// descriptor of the new /dev.
func mountSystem(root int, out *outside, cfg *Config) (int, error) {
	if err := attachTop(root, "proc", out.proc); err != nil {
		return -1, err
	}
	if err := attachTop(root, "sys", out.sys); err != nil {
		return -1, err
	}
	dev, err := newMount("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_STRICTATIME,
		"mode=0755", "size=65536k")
	if err != nil {
		return -1, fmt.Errorf("/dev: %w", err)
	}
	if err = attachTop(root, "dev", dev); err != nil {
		return -1, err
	}
	if err = fillDev(dev, out, cfg); err != nil {
		return -1, fmt.Errorf("/dev: %w", err)
	}
	return dev, nil
}

// attachTop puts a mount on the directory name at the top of the root, made if
// it is missing. A symbolic link there is refused: an image with one wants a
// fake /proc to be written to (CVE-2019-19921).
func attachTop(root int, name string, mount int) error {
	err := at.Mkdir(root, name, 0o755)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make the mount point /%s: %w", name, err)
	}
	target, err := at.Open(root, name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("/%s of the image is not a directory: refused, as /%s is mounted there", name, name)
	}
	if err != nil {
		return fmt.Errorf("open the mount point /%s: %w", name, err)
	}
	defer func() { _ = unix.Close(target) }() // O_PATH
	if err = attach(mount, target); err != nil {
		return fmt.Errorf("mount /%s: %w", name, err)
	}
	return nil
}

// attachIn puts a mount on the directory name in dir, which it makes.
func attachIn(dir int, name string, mount int) error {
	if err := at.Mkdir(dir, name, 0o755); err != nil {
		return err
	}
	target, err := at.Open(dir, name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(target) }() // O_PATH
	return attach(mount, target)
}

// device is one of the nodes that every container has: those of the OCI
// runtime-spec, config-linux.md, "Default Devices".
type device struct {
	name         string
	major, minor uint32
}

func devices() []device {
	return []device{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7},
		{"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}
}

// openDevices opens the host's device nodes, for user namespaces, where none
// can be made.
func openDevices() (map[string]int, error) {
	open := map[string]int{}
	for _, d := range devices() {
		fd, err := cloneMount(unix.AT_FDCWD, "/dev/"+d.name, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, err
		}
		open[d.name] = fd
	}
	return open, nil
}

func fillDev(dev int, out *outside, cfg *Config) error {
	var names []string
	for _, d := range devices() {
		if err := makeDevice(dev, d, out.devices, cfg.Rootless); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		names = append(names, d.name)
	}
	for _, n := range out.nodes {
		if err := n.place(dev); err != nil {
			return fmt.Errorf("%s: %w", n.target, err)
		}
		names = append(names, n.target)
	}
	if !cfg.Privileged && !cfg.Rootless {
		if err := keepNodes(dev, names); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
		"stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx", "core": "/proc/kcore"} {
		if err := at.Symlink(target, dev, name); err != nil {
			return err
		}
	}
	return mountInDev(dev, out.shm, cfg)
}

// makeDevice makes the node, so that chmod in the container does not reach the
// host's; in a user namespace it shows the host's node, if there is one.
func makeDevice(dev int, d device, host map[string]int, bind bool) error {
	if !bind {
		err := at.Mknod(dev, d.name, unix.S_IFCHR|0o666, unix.Mkdev(d.major, d.minor))
		if !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	mount, found := host[d.name]
	if !found {
		return nil
	}
	file, err := at.Open(dev, d.name, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(file) }() // empty
	return attach(mount, file)
}

// DefaultShmSize is docker's size of /dev/shm, in bytes.
const DefaultShmSize int64 = 64 << 20

func shmSize(cfg *Config) string {
	size := cfg.ShmSize
	if size <= 0 {
		size = DefaultShmSize
	}
	return strconv.FormatInt(size, 10)
}

// mountInDev makes the three file systems below /dev, as docker has them.
func mountInDev(dev, hostShm int, cfg *Config) error {
	const tight = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	pts := []string{"newinstance", "ptmxmode=0666", "mode=0620", "gid=5"} // 5 is "tty" everywhere
	if cfg.Single || cfg.UIDs != nil && OutsideID(cfg.GIDs, 5) < 0 {
		pts = pts[:3] // and is nobody here
	}
	for _, m := range []struct {
		name, fstype string
		attrs        int
		options      []string
	}{
		{"pts", "devpts", unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, pts},
		{"shm", "tmpfs", tight, []string{"source=shm", "mode=1777", "size=" + shmSize(cfg)}},
		{"mqueue", "mqueue", tight, nil},
	} {
		if m.name == "shm" && cfg.NoShm {
			continue
		}
		if m.name == "shm" && hostShm >= 0 {
			if err := attachIn(dev, m.name, hostShm); err != nil {
				return fmt.Errorf("shm: %w", err)
			}
			continue
		}
		fd, err := newMount(m.fstype, m.attrs, m.options...)
		if errors.Is(err, unix.ENODEV) && m.name == "mqueue" {
			continue // a kernel without POSIX message queues
		}
		if errors.Is(err, unix.EPERM) && m.name == "mqueue" && (cfg.HostIPC || hostShm >= 0) {
			continue // they belong to another user namespace
		}
		if err != nil {
			return err
		}
		if err = attachIn(dev, m.name, fd); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}
