package runner

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// Device is a device node of the host that the container has, too.
type Device struct {
	Source string // absolute path on the host, of a node or of a directory with nodes
	Target string // absolute path in the container, below /dev
}

// hostNode is one that was looked at while the host's files could be seen.
type hostNode struct {
	target string // relative to /dev
	stat   unix.Stat_t
	mount  int // of the node itself, in a user namespace, where none can be made; else -1
}

// openNodes looks at the devices that were asked for; a privileged container has all
// of the host's, or those that this user may open.
func openNodes(cfg *Config) ([]hostNode, error) {
	var list []hostNode
	for _, d := range cfg.Devices {
		target, below := strings.CutPrefix(path.Clean(d.Target), "/dev/")
		if !below {
			return nil, fmt.Errorf("the device %s can only be put below /dev, not at %s", d.Source, d.Target)
		}
		nodes, err := nodesAt(d.Source, target, cfg.Rootless)
		if err == nil && len(nodes) == 0 {
			err = errors.New("not a device node")
		}
		if err != nil {
			return nil, fmt.Errorf("error gathering device information while adding custom device %q: %w", d.Source, err)
		}
		list = append(list, nodes...)
	}
	if !cfg.Privileged {
		return list, nil
	}
	all, err := nodesAt("/dev", "", cfg.Rootless)
	if err != nil {
		return nil, fmt.Errorf("list the devices of this machine: %w", err)
	}
	return append(list, all...), nil
}

// nodesAt lists the nodes at or below a path of the host. What vanishes meanwhile is
// left out, but for the path itself.
func nodesAt(name, target string, bind bool) ([]hostNode, error) {
	n := hostNode{target: target, mount: -1}
	if err := unix.Stat(name, &n.stat); err != nil {
		return nil, err
	}
	switch n.stat.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		if !bind {
			return []hostNode{n}, nil
		}
		var err error
		n.mount, err = cloneMount(unix.AT_FDCWD, name, 0)
		return []hostNode{n}, err
	case unix.S_IFDIR:
		return nodesBelow(name, target, bind)
	}
	return nil, nil
}

func nodesBelow(dir, target string, bind bool) ([]hostNode, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []hostNode
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		// The container has its own of these, and links lead to what is listed anyway.
		own := slices.Contains([]string{"pts", "shm", "fd", "mqueue", "console", "ptmx", ".lxc", ".lxd-mounts", ".udev"}, e.Name())
		if own || e.Type()&os.ModeSymlink != 0 || bind && !e.IsDir() && unix.Access(name, unix.R_OK|unix.W_OK) != nil {
			continue
		}
		nodes, err := nodesAt(name, path.Join(target, e.Name()), bind)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EACCES) {
			return nil, err
		}
		list = append(list, nodes...)
	}
	return list, nil
}

// place puts the node into /dev, unless there is one of that name already.
func (n hostNode) place(dev int) error {
	dir, err := at.MakeDirs(dev, path.Dir(n.target), 0o755)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dir) }() // O_PATH
	base := path.Base(n.target)
	if n.mount >= 0 {
		file, err := at.Open(dir, base, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL, 0o666)
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(file) }() // empty
		return attach(n.mount, file)
	}
	err = at.Mknod(dir, base, n.stat.Mode, n.stat.Rdev)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	return at.Chown(dir, base, int(n.stat.Uid), int(n.stat.Gid))
}

// keepNodes lets the nodes that are in /dev be opened, and none that the program makes:
// who is root of the machine and may make nodes (CAP_MKNOD, which is docker's default)
// would reach every disk otherwise. docker has a device control group for that.
func keepNodes(dev int, names []string) error {
	for _, name := range names {
		mount, err := cloneMount(dev, name, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		err = attachAt(mount, dev, name)
		_ = unix.Close(mount) // attached, or dropped
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return setMountFlags(dev, unix.MOUNT_ATTR_NODEV, 0)
}

// attachAt puts a mount on what is at the path name in /dev, which is ours alone yet.
func attachAt(mount, dev int, name string) error {
	fd, err := at.InRoot(dev, name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // O_PATH
	return attach(mount, fd)
}
