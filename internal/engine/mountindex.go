package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/unionfs"
)

// indexOption is two options of one name: index=DIR, with a slash in it, is ours,
// and says where the index of the lower directories is kept; index=on and index=off
// are overlayfs', and ask for what is always so: the names of a hard link stay
// together.
func indexOption(m *MountOptions, value string, _ bool) (err error) {
	switch {
	case value == "on" || value == "off":
		return nil
	case !strings.Contains(value, "/"):
		return errUnknown
	}
	m.indexDir, err = onePath(value)
	return err
}

// mount mounts the view, on the index of its lower directories if one is asked for.
// An index that can not be used or made is said on stderr, and done without.
//
// Whoever gives index=DIR says that the lower directories do not change as long as
// the index is there: it is made again when one of them is another directory, or
// something was made in it or taken from it at the top, but what changes further
// below is not looked for. A file is opened only if it is the one that was indexed.
func (m *MountOptions) mount(mountpoint string) (*unionfs.Server, error) {
	view := m.options()
	if m.indexDir == "" {
		return unionfs.Mount(mountpoint, view)
	}
	if err := m.checkIndexDir(); err != nil {
		return nil, fmt.Errorf("mount option \"index=%s\": %w", m.indexDir, err)
	}
	server, err := m.mountIndexed(mountpoint, view)
	if server == nil && errors.Is(err, unionfs.ErrIndex) {
		fmt.Fprintf(os.Stderr, "varve: index=%s: %v; mounted without\n", m.indexDir, err)
		return unionfs.Mount(mountpoint, view)
	}
	return server, err
}

// mountIndexed mounts the view on the index that is there, or on a new one. Of
// several processes one makes it, and the others wait.
func (m *MountOptions) mountIndexed(mountpoint string, view unionfs.Options) (*unionfs.Server, error) {
	if m.readOnly && m.view.Upper != "" {
		return nil, fmt.Errorf("%w: one of them is an upper, which changes", unionfs.ErrNoIndex)
	}
	name, err := identifyDirs(view.Lowers)
	if err != nil {
		return nil, err
	}
	view.Index = filepath.Join(m.indexDir, name)
	server, err := unionfs.Mount(mountpoint, view)
	if !wantsIndex(err) {
		return server, err
	}
	unlock, err := lockIndexes(m.indexDir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	server, err = unionfs.Mount(mountpoint, view) // another process may have made it
	if !wantsIndex(err) {
		return server, err
	}
	if err := rebuild(view.Index, view.Lowers); err != nil {
		return nil, err
	}
	return unionfs.Mount(mountpoint, view)
}

// wantsIndex tells whether a mount failed for want of an index that could be made.
func wantsIndex(err error) bool {
	return errors.Is(err, unionfs.ErrIndex) && !errors.Is(err, unionfs.ErrNoIndex)
}

// lockIndexes has this process alone make indexes in dir.
func lockIndexes(dir string) (unlock func(), err error) {
	fd, err := at.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", unionfs.ErrIndex, err)
	}
	unlock = func() { _ = unix.Close(fd) } // nothing was written to it
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(fd, unix.LOCK_EX)
	}
	if err != nil {
		unlock()
		return nil, fmt.Errorf("%w: flock %s: %w", unionfs.ErrIndex, dir, err)
	}
	return unlock, nil
}

// rebuild makes the index at file, and removes what was left beside it by processes
// that were killed while they did.
// Preconditions: this process alone makes indexes there.
func rebuild(file string, lowers []unionfs.Lower) error {
	dir, name := filepath.Split(file)
	list, err := os.ReadDir(dir)
	for _, e := range list {
		if strings.HasPrefix(e.Name(), "."+name+".new-") {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	if err = errors.Join(err, unionfs.BuildIndex(file, lowers)); err != nil {
		return fmt.Errorf("%w: %w", unionfs.ErrIndex, err)
	}
	return nil
}

// checkIndexDir refuses a directory in which others could put an index of their
// making, since it says what files there are, and whose; and one that is itself
// part of the view.
func (m *MountOptions) checkIndexDir() error {
	dir := container.RealPath(m.indexDir)
	var st unix.Stat_t
	if err := at.Stat(at.CWD, dir, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return errors.New("it is not a directory")
	case st.Mode&0o022 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return errors.New("others can write to it: take a directory that is yours, with mode 0755 or less")
	}
	parts := []string{m.view.Upper, m.view.Work}
	for _, l := range m.view.Lowers {
		parts = append(parts, l.Path)
	}
	for _, part := range parts {
		if part != "" && strings.HasPrefix(dir+"/", strings.TrimSuffix(container.RealPath(part), "/")+"/") {
			return fmt.Errorf("it is in %q, of which the view is made: take another", part)
		}
	}
	return nil
}

// identifyDirs gives each directory its ID, and returns the name of their index.
// The name stays when a directory changes, so that the new index takes the place of
// the old.
func identifyDirs(lowers []unionfs.Lower) (string, error) {
	who, _, err := container.Onlooker()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for i := range lowers {
		path := container.RealPath(lowers[i].Path)
		if err := container.Identify(&lowers[i], path, who); err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s\x00", path)
	}
	fmt.Fprint(sum, who)
	return hex.EncodeToString(sum.Sum(nil)) + ".idx", nil
}
