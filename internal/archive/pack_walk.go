package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// walk goes through an upper in the order of the tar. However deep the tree is,
// only the two descriptors of the directory at hand are open: those above are
// opened again when they go on.
type walk struct {
	p        *packer
	stack    []*frame
	src, dst int // the directory of the last frame in upper and copy; -1 when not open
}

// frame is a directory that is being packed.
type frame struct {
	path  string // "" is the root
	items []child
	attrs *attrs // to be given to the copy when all is in it
	// opaque: its parent hides the same name in the layers below.
	opaque bool
}

// child is one name of a directory.
type child struct {
	name   string // in the tar: whiteouts have their prefix
	hidden string // the name that a whiteout hides, "" for a file
	dir    bool
	opaque bool // a directory that is hidden as well
}

func (w *walk) all() error {
	defer w.leave()
	if err := w.enter(&frame{}); err != nil {
		return fmt.Errorf("read upper: %w", err)
	}
	for len(w.stack) > 0 {
		f := w.stack[len(w.stack)-1]
		if err := w.step(f); err != nil {
			return fmt.Errorf("pack %s: %w", quote("/"+f.path), err)
		}
	}
	return nil
}

// step does the next item of the last frame, or ends it.
func (w *walk) step(f *frame) error {
	if len(f.items) == 0 {
		return w.pop(f)
	}
	if err := w.open(f.path); err != nil {
		return err
	}
	it := f.items[0]
	f.items = f.items[1:]
	path := joinName(f.path, it.name)
	switch {
	case it.hidden != "":
		return errors.Join(w.p.mark(path), w.p.dialect.Hide(w.dst, it.hidden))
	case it.dir:
		return w.directory(path, it)
	}
	if err := w.p.file(w.src, w.dst, path, it.name); err != nil {
		return fmt.Errorf("%s: %w", quote(it.name), err)
	}
	return nil
}

// directory makes a directory, private until it is full, and goes into it.
func (w *walk) directory(path string, it child) error {
	a, err := w.p.attrsOf(w.src, it.name, unix.S_IFDIR)
	if err != nil {
		return err
	}
	if err := at.Mkdir(w.dst, it.name, 0o700); err != nil {
		return err
	}
	h := a.header(path + "/")
	h.Typeflag = tar.TypeDir
	if err := errors.Join(w.p.write(h), w.p.split.nothing(path)); err != nil {
		return err
	}
	w.leave()
	return w.enter(&frame{path: path, attrs: a, opaque: it.opaque})
}

// enter lists the directory of f and puts f on the stack.
func (w *walk) enter(f *frame) error {
	if err := w.open(f.path); err != nil {
		return err
	}
	list, err := whiteout.Read(w.src)
	if err != nil {
		return err
	}
	opaque, err := whiteout.IsOpaque(w.src)
	if err != nil {
		return err
	}
	f.items = arrange(list)
	w.stack = append(w.stack, f)
	if !opaque && !list.Opaque && !f.opaque {
		return nil
	}
	return errors.Join(w.p.mark(joinName(f.path, whiteout.OpaqueName)), w.p.dialect.SetOpaque(w.dst))
}

// arrange sorts the files and whiteouts of a directory by their names in the tar.
func arrange(list whiteout.Listing) []child {
	hidden := map[string]bool{}
	for _, name := range list.Hidden {
		hidden[name] = true
	}
	items := make([]child, 0, len(list.Entries)+len(list.Hidden))
	for _, e := range list.Entries {
		items = append(items, child{name: e.Name, dir: e.Type == unix.DT_DIR, opaque: hidden[e.Name]})
		delete(hidden, e.Name)
	}
	for name := range hidden {
		items = append(items, child{name: whiteout.Prefix + name, hidden: name})
	}
	slices.SortFunc(items, func(a, b child) int { return strings.Compare(a.name, b.name) })
	return items
}

// pop ends a directory: from now on nothing changes its time.
func (w *walk) pop(f *frame) error {
	w.leave()
	w.stack = w.stack[:len(w.stack)-1]
	if f.path == "" {
		return nil
	}
	parent, base := splitName(f.path)
	if err := w.open(parent); err != nil {
		return err
	}
	return w.p.owners.dress(w.dst, base, unix.S_IFDIR, f.attrs)
}

func (w *walk) open(path string) (err error) {
	if w.src >= 0 {
		return nil
	}
	if w.src, err = at.Beneath(w.p.upper, path, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
		return err
	}
	w.dst, err = at.Beneath(w.p.diff, path, unix.O_RDONLY|unix.O_DIRECTORY)
	return err
}

func (w *walk) leave() {
	for _, fd := range []int{w.src, w.dst} {
		if fd >= 0 {
			_ = unix.Close(fd) // read only
		}
	}
	w.src, w.dst = -1, -1
}

// hostAttrs belong to the host rather than to the file: labels and checksums that
// mean nothing, or the wrong thing, on another one.
var hostAttrs = []string{"security.selinux", "security.ima", "security.evm", "security.apparmor"}

// attrsOf reads what belongs to name in dir, "" for dir itself, beside its data.
// Where this process has one user id only, the true owner, mode and type are in
// OverrideAttr; elsewhere anyone inside a container can set that attribute, so
// there it says nothing.
func (p *packer) attrsOf(dir int, name string, kind uint32) (*attrs, error) {
	var st unix.Stat_t
	if err := at.Stat(dir, name, &st); err != nil {
		return nil, err
	}
	a := &attrs{uid: int(st.Uid), gid: int(st.Gid), mode: st.Mode & 0o7777, mtime: st.Mtim, xattrs: map[string]string{}}
	list, err := at.Listxattr(dir, name)
	if err != nil {
		return nil, err
	}
	for _, attr := range list {
		override := attr == OverrideAttr && p.owners.squash && kind != unix.S_IFLNK
		if !override && (!storable(attr) || slices.Contains(hostAttrs, attr)) {
			continue
		}
		value, err := at.Getxattr(dir, name, attr)
		switch {
		case errors.Is(err, unix.ENODATA):
			continue // removed since it was listed
		case err != nil:
			return nil, err
		case !override:
			a.xattrs[attr] = string(value)
		default:
			if err := a.parseOverride(string(value)); err != nil {
				return nil, err
			}
			if kind != unix.S_IFREG {
				a.device = ""
			}
		}
	}
	return a, nil
}
