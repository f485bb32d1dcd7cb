package at

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// InRoot opens name, several components, as a process would whose root
// directory is root: symbolic links are followed, also the last one, but
// absolute ones begin at root and ".." never leaves it. Magic links (those of
// /proc/PID/fd, /proc/PID/root, …) give ELOOP, as they lead anywhere. It needs
// openat2(2), Linux 5.6.
func InRoot(root int, name string, flags int) (int, error) {
	if name == "" {
		name = "/"
	}
	return resolve(root, name, flags, unix.RESOLVE_IN_ROOT)
}

// Walk opens name, several components, as this thread does whose root and working
// directory are what they are, but for magic links, which give ELOOP. It needs
// openat2(2), Linux 5.6.
func Walk(name string, flags int) (int, error) { return resolve(CWD, name, flags, 0) }

func resolve(dir int, name string, flags int, bounds uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: bounds | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd := -1
	err := again(func() (err error) {
		fd, err = unix.Openat2(dir, name, &how)
		if err == unix.EAGAIN { // a rename raced with the resolution
			return unix.EINTR
		}
		return err
	})
	if err != nil {
		return -1, pathError("open", name, err)
	}
	return fd, nil
}

// MakeDirs opens (O_PATH) the directory name, several components resolved as
// [InRoot] does, and makes those that are missing with mode before the umask.
// A dangling symbolic link is not followed to make its target: it is ENOTDIR.
func MakeDirs(root int, name string, mode uint32) (int, error) {
	const dirFlags = unix.O_PATH | unix.O_DIRECTORY
	name = clean(name)
	fd, err := InRoot(root, name, dirFlags)
	if !errors.Is(err, unix.ENOENT) || name == "/" {
		return fd, err
	}
	parent, err := MakeDirs(root, path.Dir(name), mode)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(parent) }() // an O_PATH descriptor has nothing to lose
	err = Mkdir(parent, path.Base(name), mode)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return Open(parent, path.Base(name), dirFlags, 0)
}

// MakeFile opens (O_PATH) name, resolved as [InRoot] does, whatever it is, and
// where nothing is makes an empty file with mode before the umask, and the
// missing directories above it with 0755.
func MakeFile(root int, name string, mode uint32) (int, error) {
	name = clean(name)
	fd, err := InRoot(root, name, unix.O_PATH)
	if !errors.Is(err, unix.ENOENT) || name == "/" {
		return fd, err
	}
	parent, err := MakeDirs(root, path.Dir(name), 0o755)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(parent) }() // O_PATH
	return Open(parent, path.Base(name), unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL, mode)
}

// clean makes name absolute, without "." and "..", before any symbolic link
// is looked at: as docker reads the paths of its command line.
func clean(name string) string {
	return path.Clean("/" + strings.TrimLeft(name, "/"))
}
