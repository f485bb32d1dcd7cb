package archive

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// maxLinks is how many symbolic links one path may lead through, as in Linux.
const maxLinks = 40

// place is a directory of the layer that is being unpacked.
type place struct {
	fd   int
	path string // where it really is, below the root; no part of it is a link
	// linked tells that a symbolic link led here.
	linked bool
}

// places finds directories below one root and remembers the last, since the
// entries of an archive come directory by directory.
type places struct {
	root   int
	owners owners // say what is a symbolic link
	// made is called for every directory that had to be made on the way.
	made func(parent place, name, path string) error

	asked string // the name that current was found by
	open  bool   // current is valid
	current,
	top place
}

func newPlaces(root int, o owners, made func(place, string, string) error) *places {
	return &places{root: root, owners: o, made: made, top: place{fd: root}}
}

// close frees the remembered directory. The root stays the caller's.
func (p *places) close() {
	if p.open && p.current.fd != p.root {
		_ = unix.Close(p.current.fd) // read only
	}
	p.open = false
}

// find returns the directory that the clean path names. It is valid until the
// next call of find or close. With make, missing directories are made.
func (p *places) find(path string, make bool) (place, error) {
	if path == "" {
		return p.top, nil
	}
	if p.open && p.asked == path {
		return p.current, nil
	}
	found, err := p.direct(path)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		found, err = p.walk(path, make)
	}
	return p.remember(path, found, err)
}

// exact is find for a path that holds no links and exists.
func (p *places) exact(path string) (place, error) {
	switch {
	case path == "":
		return p.top, nil
	case p.open && p.asked == path && p.current.path == path:
		return p.current, nil
	}
	found, err := p.direct(path)
	return p.remember(path, found, err)
}

func (p *places) remember(path string, found place, err error) (place, error) {
	if err != nil {
		return place{}, err
	}
	p.close()
	p.asked, p.current, p.open = path, found, true
	return found, nil
}

// forget makes the next find look anew, after something was replaced. What find
// returned last stays open.
func (p *places) forget() { p.asked = "\x00" }

// direct opens a path that exists and holds no links, with one system call.
func (p *places) direct(path string) (place, error) {
	base, rest := p.root, path
	if p.open && strings.HasPrefix(path, p.asked+"/") && p.current.path == p.asked {
		base, rest = p.current.fd, path[len(p.asked)+1:]
	}
	fd, err := at.Beneath(base, rest, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return place{}, err
	}
	return place{fd: fd, path: path}, nil
}

// walk goes component by component, resolves symbolic links as if the root were
// that of the process, and makes what is missing. It holds one descriptor,
// however deep it goes.
func (p *places) walk(path string, make bool) (place, error) {
	w := walker{places: p, at: place{fd: p.root}, rest: strings.Split(path, "/"), make: make}
	for len(w.rest) > 0 {
		if err := w.step(); err != nil {
			w.leave()
			return place{}, err
		}
	}
	return w.at, nil
}

type walker struct {
	*places
	at    place
	rest  []string // components still to go
	links int
	make  bool
}

func (w *walker) leave() {
	if w.at.fd != w.root {
		_ = unix.Close(w.at.fd) // read only
	}
}

func (w *walker) enter(fd int, path string) {
	w.leave()
	w.at.fd, w.at.path = fd, path
}

// step takes one component.
func (w *walker) step() error {
	name := w.rest[0]
	w.rest = w.rest[1:]
	switch name {
	case "", ".":
		return nil
	case "..":
		return w.up()
	}
	fd, err := at.OpenDir(w.at.fd, name)
	if errors.Is(err, unix.ENOENT) && w.make {
		if err = w.mkdir(name); err != nil {
			return err
		}
		fd, err = at.OpenDir(w.at.fd, name)
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return w.notDir(name)
	}
	if err != nil {
		return err
	}
	w.enter(fd, joinName(w.at.path, name))
	return nil
}

// mkdir makes a directory that the archive did not name.
func (w *walker) mkdir(name string) error {
	if err := at.Mkdir(w.at.fd, name, 0o700); err != nil {
		return err
	}
	return w.made(w.at, name, joinName(w.at.path, name))
}

// up goes to the parent, as a link's target may ask; the root is its own.
func (w *walker) up() error {
	parent, _ := splitName(w.at.path)
	if parent == "" {
		w.enter(w.root, "")
		return nil
	}
	fd, err := at.Beneath(w.root, parent, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	w.enter(fd, parent)
	return nil
}

// notDir follows the symbolic link name, or replaces the whiteout name by the
// directory that is about to get files.
func (w *walker) notDir(name string) error {
	var st unix.Stat_t
	if err := at.Stat(w.at.fd, name, &st); err != nil {
		return err
	}
	target, isLink, err := w.owners.linkThere(w.at.fd, name, &st)
	switch {
	case err != nil:
		return err
	case isLink:
		return w.follow(name, target)
	case w.make && whiteout.IsDevice(st.Mode, st.Rdev):
		return w.opaqueDir(name)
	case whiteout.IsDevice(st.Mode, st.Rdev):
		return unix.ENOENT
	}
	return fmt.Errorf("%s is not a directory: %w", quote(joinName(w.at.path, name)), unix.ENOTDIR)
}

func (w *walker) follow(name, target string) error {
	if w.links++; w.links > maxLinks {
		return unsafeEntry("%s leads through more than %d symbolic links", quote(joinName(w.at.path, name)), maxLinks)
	}
	w.at.linked = true
	if strings.HasPrefix(target, "/") {
		w.enter(w.root, "")
	}
	w.rest = append(strings.Split(target, "/"), w.rest...)
	return nil
}

// opaqueDir makes a directory in the place of a whiteout of the overlay dialect:
// what is below both stays hidden.
func (w *walker) opaqueDir(name string) error {
	if err := at.Unlink(w.at.fd, name); err != nil {
		return err
	}
	if err := w.mkdir(name); err != nil {
		return err
	}
	w.rest = append([]string{name}, w.rest...)
	return makeOpaque(whiteout.Overlay, w.at.fd, name)
}

// makeOpaque makes the directory name in dir opaque.
func makeOpaque(dialect whiteout.Dialect, dir int, name string) error {
	fd, err := at.OpenDir(dir, name)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	return dialect.SetOpaque(fd)
}
