package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// groupMount is a control group that the container sees below /sys/fs/cgroup.
type groupMount struct {
	name  string // of the directory there; "" is that itself
	mount int
}

// outsideEnv is in the environment of an init stage that was not born in Config.Group.
const outsideEnv = "VARVE_OUTSIDE"

// openGroups opens the container's own control groups, which programs read their limits
// from, read-only; those of the host where the container shares their namespace. Where
// the container has none there is nothing to be seen, as the others are not its own.
func openGroups(cfg *Config) (list []groupMount, err error) {
	open := func(name, dir string, flags uint) {
		if err != nil {
			return
		}
		var fd int
		if fd, err = cloneMount(unix.AT_FDCWD, dir, flags); err != nil {
			return
		}
		attrs := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC)
		if !cfg.Privileged {
			attrs |= unix.MOUNT_ATTR_RDONLY
		}
		err = setMountFlags(fd, attrs, flags)
		list = append(list, groupMount{name, fd})
	}
	if cfg.HostCgroups {
		if open("", groupRoot, unix.AT_RECURSIVE); errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		return list, err
	}
	if os.Getenv(outsideEnv) == "" && cfg.GroupDir != "" {
		name := ""
		if len(cfg.Join) > 0 || isBelow(cfg.GroupDir, groupRoot+"/unified") { // beside trees of version 1
			name = "unified"
		}
		open(name, cfg.GroupDir, 0)
	}
	for _, dir := range cfg.Join {
		open(controllerOf(dir), dir, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("show the control groups: %w", err)
	}
	return list, nil
}

// groupRoot is where the trees of control groups are, here and in the container.
const groupRoot = "/sys/fs/cgroup"

func isBelow(name, dir string) bool {
	rel, err := filepath.Rel(dir, name)
	return err == nil && filepath.IsLocal(rel)
}

// controllerOf is the name of the tree of version 1 that a group is in.
func controllerOf(dir string) string {
	rel, err := filepath.Rel(groupRoot, dir)
	if err != nil || !filepath.IsLocal(rel) {
		return ""
	}
	for filepath.Dir(rel) != "." {
		rel = filepath.Dir(rel)
	}
	return rel
}

// attachGroups puts them below the new /sys.
// What a host's /sys brings along there is not the container's.
func attachGroups(root int, list []groupMount, cfg *Config) error {
	if len(list) == 0 && !cfg.Rootless {
		return nil // a new /sys has nothing there
	}
	top, err := at.InRoot(root, groupRoot, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) { // a kernel without any
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(top) }() // O_PATH
	if len(list) == 1 && list[0].name == "" {
		return attach(list[0].mount, top)
	}
	tmpfs, err := newMount("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, "mode=0755", "size=64k")
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(tmpfs) }() // attached, or dropped
	if err = attach(tmpfs, top); err != nil {
		return err
	}
	for _, g := range list {
		if err = attachIn(tmpfs, g.name, g.mount); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
	}
	return setMountFlags(tmpfs, unix.MOUNT_ATTR_RDONLY, 0)
}
