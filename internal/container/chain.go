package container

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/runner"
	"github.com/varvefs/varve/unionfs"
)

// Chain is the layers that a container stands on, and where their index is.
type Chain struct {
	Lowers []unionfs.Lower // top first
	// Index is the chain ID, "" where the layers have no index: of this machine's own
	// files, and where owners are kept in an attribute.
	Index digest.Digest
	Below digest.Digest // that of the layers below the top one, "" for none
}

// Chain opens nothing: it says where the layers are, by their names in a [Spec].
func (p Place) Chain(names []string) (Chain, error) { return p.ChainWith(names, nil) }

// ChainWith is Chain where some layers, by diff ID, are in stages still.
func (p Place) ChainWith(names []string, staged map[digest.Digest]string) (Chain, error) {
	var c Chain
	for _, name := range names {
		l, err := p.Lower(name)
		if dir := staged[digest.Digest(name)]; dir != "" {
			l, err = unionfs.Lower{Path: dir}, nil
		}
		if err != nil {
			return c, err
		}
		c.Lowers = append(c.Lowers, l)
	}
	who, ok, err := Onlooker()
	if err != nil || !ok || len(names) == 0 || slices.Contains(names, HostLayer) {
		return c, err
	}
	for i, name := range names {
		if err := Identify(&c.Lowers[i], name, who); err != nil {
			return c, err
		}
	}
	for _, name := range slices.Backward(names) {
		c.Below = c.Index
		c.Index = layout.ChainID(c.Index, digest.Digest(name))
	}
	return c, nil
}

// Onlooker names the user namespace of this process, which decides what owners it
// sees. ok is false where there is a single id, and true owners are kept in an
// attribute.
func Onlooker() (who string, ok bool, err error) {
	ns, err := runner.CurrentUserns()
	if err != nil || ns == nil {
		return "the machine's ids", true, err
	}
	return fmt.Sprintf("uids %v gids %v", ns.UIDs, ns.GIDs), !ns.Single, nil
}

// Identify says what an index has of a layer: its content, which name stands for,
// the inode numbers of this very directory, and the owners as who sees them.
// Inode numbers are given away again when a layer is removed; the time of change
// of a directory that is made later is another, and can not be set.
func Identify(l *unionfs.Lower, name, who string) error {
	var st unix.Stat_t
	if err := at.Stat(at.CWD, l.Path, &st); err != nil {
		return fmt.Errorf("layer %s: %w", name, err)
	}
	sec, nsec := st.Ctim.Unix()
	l.ID = fmt.Sprintf("%s changed %d.%09d seen with %s", name, sec, nsec, who)
	return nil
}

// mountChain mounts the view of a chain on its index. Where there is none that can
// be used the directories are merged as they are needed, and missing is true: it
// costs more to make than a short container takes (docs/performance.md).
func (p Place) mountChain(mountpoint string, c Chain, opt unionfs.Options) (v view, missing bool, err error) {
	opt.Lowers = c.Lowers
	if c.Index == "" {
		v, err = mountView(mountpoint, opt)
		return v, false, err
	}
	opt.Index = p.ChainFile(c.Index)
	v, err = mountView(mountpoint, opt)
	if !errors.Is(err, unionfs.ErrIndex) {
		return v, false, err
	}
	opt.Index = ""
	v, err = mountView(mountpoint, opt)
	return v, true, err
}

// mountView mounts a view of ours, or what takes its place.
func mountView(mountpoint string, opt unionfs.Options) (view, error) {
	server, err := unionfs.Mount(mountpoint, opt)
	switch {
	case err == nil:
		return server, nil
	case !errors.Is(err, unionfs.ErrIndex) && noFUSE():
		return mountKernel(mountpoint, opt, err)
	}
	return nil, err
}

// indexInBackground has a process of its own make the index, for the next container
// of the chain. It lives on if this one ends before, and holds nothing of the
// container: what it can not do, as on a full disk, is left undone, since a chain
// works without.
func (p Place) indexInBackground(names []string) {
	child, err := runner.StartSelf(runner.Self{
		Program: p.program, Args: append([]string{"varve", "index"}, names...), Env: Environ(p.Root()), Setsid: true,
	})
	if err == nil {
		go func() { _, _ = child.Wait() }() // so that the kernel can forget it
	}
}

// HostLower is the file system of this machine without what would be a loop (the
// store, with the view in it) and without what every container has fresh.
func (p Place) HostLower() unionfs.Lower {
	cut := []string{"proc", "sys", "dev"}
	for _, root := range []string{p.Root(), RealPath(p.Root())} {
		cut = append(cut, strings.TrimPrefix(root, "/"))
	}
	return unionfs.Lower{Path: "/", Cut: cut, Live: true}
}

// RealPath is the path without symbolic links, as far as it can be told.
func RealPath(path string) string {
	if r, err := filepath.EvalSymlinks(path); err == nil {
		return r
	}
	return path
}

// DiffDir is the directory with the files of a layer.
func (p Place) DiffDir(diffID string) (string, error) {
	d, err := digest.Parse(diffID)
	if err != nil {
		return "", fmt.Errorf("layer %q: %w", diffID, err)
	}
	return layout.DiffDir(p.LayerDir(d)), nil
}
