package engine

import (
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/runner"
	"github.com/varvefs/varve/unionfs"
)

// chain is the layers that a container stands on, and where their index is.
type chain struct {
	lowers []unionfs.Lower // top first
	// index is the chain ID, "" where the layers have no index: of this machine's own
	// files, and where owners are kept in an attribute.
	index digest.Digest
	below digest.Digest // that of the layers below the top one, "" for none
}

// chain opens nothing: it says where the layers are, by their names in a [Spec].
func (e *Engine) chain(names []string) (chain, error) { return e.chainWith(names, nil) }

// chainWith is chain where some layers, by diff ID, are in stages still.
func (e *Engine) chainWith(names []string, staged map[digest.Digest]string) (chain, error) {
	var c chain
	for _, name := range names {
		l, err := e.lower(name)
		if dir := staged[digest.Digest(name)]; dir != "" {
			l, err = unionfs.Lower{Path: dir}, nil
		}
		if err != nil {
			return c, err
		}
		c.lowers = append(c.lowers, l)
	}
	who, ok, err := onlooker()
	if err != nil || !ok || len(names) == 0 || slices.Contains(names, hostLayer) {
		return c, err
	}
	for i, name := range names {
		if err := identify(&c.lowers[i], name, who); err != nil {
			return c, err
		}
	}
	for _, name := range slices.Backward(names) {
		c.below = c.index
		c.index = layout.ChainID(c.index, digest.Digest(name))
	}
	return c, nil
}

// onlooker names the user namespace of this process, which decides what owners it
// sees. ok is false where there is a single id, and true owners are kept in an
// attribute.
func onlooker() (who string, ok bool, err error) {
	ns, err := runner.CurrentUserns()
	if err != nil || ns == nil {
		return "the machine's ids", true, err
	}
	return fmt.Sprintf("uids %v gids %v", ns.UIDs, ns.GIDs), !ns.Single, nil
}

// identify says what an index has of a layer: its content, which name stands for,
// the inode numbers of this very directory, and the owners as who sees them.
// Inode numbers are given away again when a layer is removed; the time of change
// of a directory that is made later is another, and can not be set.
func identify(l *unionfs.Lower, name, who string) error {
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
func (e *Engine) mountChain(mountpoint string, c chain, opt unionfs.Options) (v view, missing bool, err error) {
	opt.Lowers = c.lowers
	if c.index == "" {
		v, err = mountView(mountpoint, opt)
		return v, false, err
	}
	opt.Index = e.store.ChainFile(c.index)
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
func (e *Engine) indexInBackground(names []string) {
	child, err := runner.StartSelf(runner.Self{
		Args: append([]string{"varve", "index"}, names...), Env: environ(e.Root()), Setsid: true,
	})
	if err == nil {
		go func() { _, _ = child.Wait() }() // so that the kernel can forget it
	}
}
