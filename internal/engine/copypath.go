package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/container"
)

// A copyTarget is where it is to go.
type copyTarget struct {
	exists, dir bool
	base        string // its name in the directory above
}

// under is the name that a copy gets: in the target if that is a directory, else in the
// directory above. These are docker's rules, and its words.
func nameUnder(s container.CopySource, t copyTarget, assertsDir bool) (string, error) {
	switch {
	case t.exists && t.dir:
		return s.Name, nil
	case t.exists && s.Dir:
		return "", errors.New("cannot copy directory")
	case t.exists && assertsDir:
		return "", errors.New("not a directory")
	case !t.exists && !s.Dir && assertsDir:
		return "", errors.New("no such directory")
	}
	return t.base, nil
}

// assertsDir tells whether a path is written as that of a directory.
func assertsDir(name string) bool {
	return strings.HasSuffix(name, "/") || path.Base(name) == "." && name != ""
}

// namesContents tells whether it is written as what is in a directory.
func namesContents(name string) bool { return name == "." || strings.HasSuffix(name, "/.") }

// sourceName is the name that a copy of the file at an absolute path is known by.
func sourceName(name string) string {
	if clean := path.Clean(name); !namesContents(name) && clean != "/" {
		return path.Base(clean)
	}
	return ""
}

// A jail is the root directory of a container, in which this process is shut up.
type jail struct {
	root int
	ids  container.Sandbox // in whose user namespace files are owned as they are shown; zero for none
}

// mostLinks is how many symbolic links may lead to a file, as in Linux.
const mostLinks = 40

// whereIs finds the directory that name is in, after symbolic links: the last one, too,
// with follow. base is the name in it, "." if name is a directory without one; kind is
// what is there (S_IFREG, …), 0 for nothing. The caller closes dir.
func (j jail) whereIs(name string, follow bool) (dir int, base string, kind uint32, err error) {
	for range mostLinks {
		above, base := path.Split(strings.TrimRight(name, "/"))
		if base == "" || base == "." || base == ".." {
			dir, err = at.InRoot(j.root, name, unix.O_RDONLY|unix.O_DIRECTORY)
			return dir, ".", unix.S_IFDIR, err
		}
		if dir, err = at.InRoot(j.root, above, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
			return -1, "", 0, err
		}
		var st unix.Stat_t
		err = at.Stat(dir, base, &st)
		if errors.Is(err, unix.ENOENT) {
			return dir, base, 0, nil
		}
		if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFLNK || !follow) {
			return dir, base, st.Mode & unix.S_IFMT, nil
		}
		link := ""
		if err == nil {
			link, err = at.Readlink(dir, base)
		}
		_ = unix.Close(dir)              // only read
		if errors.Is(err, unix.EINVAL) { // no link any more
			continue
		}
		if err != nil {
			return -1, "", 0, err
		}
		if name = link; !path.IsAbs(link) {
			name = above + link
		}
	}
	return -1, "", 0, &os.PathError{Op: "open", Path: name, Err: unix.ELOOP}
}

// target finds where a copy is to go: the descriptor of the directory that it is made in,
// and the name that it gets there.
func (j jail) target(name string, s container.CopySource) (dir int, under string, err error) {
	clean := path.Clean("/" + name)
	dir, err = at.InRoot(j.root, clean, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == nil {
		under, err = nameUnder(s, copyTarget{exists: true, dir: true}, true)
		return dir, under, err
	}
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
		return -1, "", err
	}
	if s.Archive {
		return -1, "", errNoDirectory
	}
	if namesContents(name) { // of a directory that is not there
		return -1, "", err
	}
	dir, base, kind, err := j.whereIs(clean, true)
	if err != nil {
		return -1, "", err
	}
	if kind != 0 && kind != unix.S_IFREG {
		_ = unix.Close(dir) // only read
		return -1, "", errNoFile
	}
	if under, err = nameUnder(s, copyTarget{exists: kind != 0, base: base}, assertsDir(name)); err != nil {
		_ = unix.Close(dir) // only read
	}
	return dir, under, err
}

// What a target can not be; the verb names it.
var (
	errNoDirectory = errors.New("must be a directory")
	errNoFile      = errors.New("must be a directory or a regular file")
)

// source finds what is to be copied: the descriptor of the directory that it is in, its
// name there, and what the other end has to know of it.
func (j jail) source(name string, follow bool) (dir int, base string, s container.CopySource, err error) {
	s.Name = sourceName("/" + name)
	clean := path.Clean("/" + name)
	if assertsDir("/"+name) || clean == "/" {
		s.Dir = true
		dir, err = at.InRoot(j.root, clean, unix.O_RDONLY|unix.O_DIRECTORY)
		return dir, ".", s, err
	}
	dir, base, kind, err := j.whereIs(clean, follow)
	if err == nil && kind == 0 {
		_ = unix.Close(dir) // only read
		err = fs.ErrNotExist
	}
	s.Dir = kind == unix.S_IFDIR
	return dir, base, s, err
}

// localPath makes a path of this machine absolute, and leaves what its end says.
func localPath(name string) (string, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	switch {
	case namesContents(name):
		abs += "/."
	case assertsDir(name) && abs != "/":
		abs += "/"
	}
	return abs, nil
}

// localSource is jail.source for a file of this machine, whose paths are its user's.
func localSource(name string, follow bool) (dir int, base string, s container.CopySource, err error) {
	abs, err := localPath(name)
	if err != nil {
		return -1, "", s, err
	}
	real := filepath.Clean(abs)
	if follow || assertsDir(abs) {
		if real, err = filepath.EvalSymlinks(real); err != nil {
			return -1, "", s, err
		}
	}
	info, err := os.Lstat(real)
	if err == nil && assertsDir(abs) && !info.IsDir() {
		err = errors.New("not a directory")
	}
	if err != nil {
		return -1, "", s, err
	}
	s = container.CopySource{Name: sourceName(abs), Dir: info.IsDir()}
	if s.Dir {
		dir, err = at.OpenRoot(real)
		return dir, ".", s, err
	}
	dir, err = at.OpenRoot(filepath.Dir(real))
	return dir, filepath.Base(real), s, err
}

// localTarget is jail.target for a file of this machine.
func localTarget(name string, s container.CopySource) (dir int, under string, err error) {
	abs, err := localPath(name)
	if err != nil {
		return -1, "", err
	}
	real := filepath.Clean(abs)
	for range mostLinks { // a link to nothing: the copy is made where it leads
		link, err := os.Readlink(real)
		if err != nil {
			break
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(filepath.Dir(real), link)
		}
		real = link
	}
	t := copyTarget{base: filepath.Base(real)}
	info, err := os.Stat(real)
	switch {
	case err == nil:
		t.exists, t.dir = true, info.IsDir()
	case !errors.Is(err, fs.ErrNotExist):
		return -1, "", err
	}
	if under, err = nameUnder(s, t, assertsDir(abs)); err != nil {
		return -1, "", err
	}
	if !t.dir {
		real = filepath.Dir(real)
	}
	dir, err = at.OpenRoot(real)
	return dir, under, err
}

// checkLocalTarget refuses a path of this machine that nothing can be copied to, in
// docker's words.
func checkLocalTarget(name string) error {
	name, err := localPath(name)
	if err != nil {
		return err
	}
	if dir := filepath.Dir(filepath.Clean(name)); dir != "." {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("invalid output path: directory %q does not exist", dir)
		}
	}
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir(), info.Mode().IsRegular():
		return nil
	}
	return fmt.Errorf("invalid output path: %q must be a directory or a regular file", name)
}
