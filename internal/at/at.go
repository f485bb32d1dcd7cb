package at

import (
	"errors"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// CWD as a directory descriptor means the working directory of the process;
// absolute paths may be passed with it. It is meant for roots only.
const CWD = unix.AT_FDCWD

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}

// again calls fn until it is not interrupted. Go's own preemption signals
// interrupt slow system calls on network and FUSE file systems.
func again(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR {
			return err
		}
	}
}

// quietly calls open with flags; without O_NOATIME if that is among them and the file
// is somebody else's, who may not be deceived (open(2)).
func quietly(flags int, open func(flags int) (int, error)) (fd int, err error) {
	try := func() error {
		fd, err = open(flags | unix.O_CLOEXEC)
		return err
	}
	if err = again(try); err == unix.EPERM && flags&unix.O_NOATIME != 0 {
		flags &^= unix.O_NOATIME
		err = again(try)
	}
	return fd, err
}

// Open opens name in dir with flags (O_RDONLY, O_CREAT, O_PATH, …) and, where
// it creates, mode before the umask. It never follows a symbolic link: one in
// the place of name gives ELOOP, unless flags has O_PATH. O_NOATIME counts where it is
// allowed.
func Open(dir int, name string, flags int, mode uint32) (int, error) {
	fd, err := quietly(flags, func(flags int) (int, error) {
		return unix.Openat(dir, name, flags|unix.O_NOFOLLOW, mode)
	})
	if err != nil {
		return -1, pathError("open", name, err)
	}
	return fd, nil
}

// OpenDir opens the directory name in dir for reading, which leaves its access time
// alone where that is allowed.
func OpenDir(dir int, name string) (int, error) {
	return Open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOATIME, 0)
}

// OpenRoot opens the directory at path, which may be absolute and may lead
// through symbolic links: it is for paths that the user gave.
func OpenRoot(path string) (int, error) {
	fd := -1
	err := again(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, pathError("open", path, err)
	}
	return fd, nil
}

// maxChunk keeps a relative path below PATH_MAX (4096 with its final NUL).
const maxChunk = 4000

// Beneath opens path, several components relative to dir, without following
// any symbolic link and without leaving dir. "" and "." are dir itself, opened
// anew. Paths longer than PATH_MAX are walked in pieces. O_NOATIME counts where it is
// allowed.
func Beneath(dir int, path string, flags int) (int, error) {
	if path == "" {
		path = "."
	}
	if len(path) <= maxChunk {
		return openBeneath(dir, path, flags)
	}
	cut := strings.LastIndexByte(path[:maxChunk], '/')
	if cut <= 0 {
		return -1, pathError("open", path, unix.ENAMETOOLONG)
	}
	mid, err := openBeneath(dir, path[:cut], unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(mid) }() // an O_PATH descriptor has nothing to lose
	return Beneath(mid, strings.TrimLeft(path[cut:], "/"), flags)
}

func openBeneath(dir int, path string, flags int) (int, error) {
	fd, err := quietly(flags, func(flags int) (int, error) {
		fd, err := unix.Openat2(dir, path, &unix.OpenHow{
			Flags:   uint64(flags | unix.O_NOFOLLOW),
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err == unix.EAGAIN { // a rename raced with the resolution
			err = unix.EINTR
		}
		return fd, err
	})
	if err == unix.ENOSYS {
		return walkBeneath(dir, path, flags)
	}
	if err != nil {
		return -1, pathError("open", path, err)
	}
	return fd, nil
}

// walkBeneath does what openat2 does, on kernels before 5.6.
func walkBeneath(dir int, path string, flags int) (int, error) {
	at, owned := dir, false
	parts := strings.Split(path, "/")
	for i, part := range parts {
		if part == ".." {
			return -1, pathError("open", path, unix.EXDEV)
		}
		f := unix.O_PATH | unix.O_DIRECTORY
		if i == len(parts)-1 {
			f = flags
		}
		if part == "" {
			part = "."
		}
		fd, err := Open(at, part, f, 0)
		if owned {
			_ = unix.Close(at) // O_PATH
		}
		if err != nil {
			return -1, err
		}
		at, owned = fd, true
	}
	return at, nil
}

// Follow opens name in dir, several components, and follows all links, magic ones too:
// it is for /proc alone.
func Follow(proc int, name string, flags int) (int, error) {
	fd, err := quietly(flags, func(flags int) (int, error) { return unix.Openat(proc, name, flags, 0) })
	if err != nil {
		return -1, pathError("open", name, err)
	}
	return fd, nil
}

// Reopen opens the file behind fd again with flags. It reaches the file itself,
// whatever its name is now, also an unlinked one. O_NOATIME counts where it is
// allowed.
func Reopen(fd int, flags int) (int, error) {
	path := procFD(fd)
	n, err := quietly(flags, func(flags int) (int, error) { return unix.Open(path, flags, 0) })
	if err != nil {
		return -1, pathError("open", path, err)
	}
	return n, nil
}

// Stat fills st for name in dir; for "" it is dir itself.
func Stat(dir int, name string, st *unix.Stat_t) error {
	for {
		err := stat(dir, name, st)
		if err != unix.EINTR {
			return pathError("stat", name, err)
		}
	}
}

func stat(dir int, name string, st *unix.Stat_t) error {
	if name == "" {
		return unix.Fstat(dir, st)
	}
	return unix.Fstatat(dir, name, st, unix.AT_SYMLINK_NOFOLLOW)
}

// Statx fills st for name in dir, or for dir itself if name is ""; mask says what is
// wanted (STATX_BTIME, …). A kernel without the call gives ENOSYS.
func Statx(dir int, name string, mask int, st *unix.Statx_t) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	return pathError("statx", name, again(func() error { return unix.Statx(dir, name, flags, mask, st) }))
}

// Tempfile makes a regular file without a name (O_TMPFILE) on the file system of
// dir, open for reading and writing, with mode before the umask; reading leaves its
// access time alone. [LinkFD] gives it a name.
func Tempfile(dir int, mode uint32) (int, error) {
	fd := -1
	err := again(func() (err error) {
		fd, err = unix.Openat(dir, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_NOATIME|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return -1, pathError("open", ".", err)
	}
	return fd, nil
}

// Mkdir makes the directory name in dir with mode before the umask.
func Mkdir(dir int, name string, mode uint32) error {
	return pathError("mkdir", name, unix.Mkdirat(dir, name, mode))
}

// Mknod makes a node of any kind; mode carries the type, dev is as in stat.
func Mknod(dir int, name string, mode uint32, dev uint64) error {
	return pathError("mknod", name, unix.Mknodat(dir, name, mode, int(dev)))
}

// Symlink makes name in dir a symbolic link to target.
func Symlink(target string, dir int, name string) error {
	return pathError("symlink", name, unix.Symlinkat(target, dir, name))
}

// Link gives the file oldName in oldDir the further name newName in newDir. A
// symbolic link is linked itself.
func Link(oldDir int, oldName string, newDir int, newName string) error {
	return pathError("link", newName, unix.Linkat(oldDir, oldName, newDir, newName, 0))
}

// LinkFD gives the open file fd, also an O_TMPFILE one, the name newName in
// newDir. It works without CAP_DAC_READ_SEARCH: since Linux 6.10 for who opened the
// file, and before that through /proc, which takes longer.
func LinkFD(fd int, newDir int, newName string) error {
	err := unix.Linkat(fd, "", newDir, newName, unix.AT_EMPTY_PATH)
	if err == unix.ENOENT {
		err = unix.Linkat(unix.AT_FDCWD, procFD(fd), newDir, newName, unix.AT_SYMLINK_FOLLOW)
	}
	return pathError("link", newName, err)
}

// Unlink removes the name of something that is not a directory.
func Unlink(dir int, name string) error {
	return pathError("unlink", name, unix.Unlinkat(dir, name, 0))
}

// Rmdir removes the empty directory name.
func Rmdir(dir int, name string) error {
	return pathError("rmdir", name, unix.Unlinkat(dir, name, unix.AT_REMOVEDIR))
}

// Rename is renameat2 with flags (0, RENAME_NOREPLACE, RENAME_EXCHANGE,
// RENAME_WHITEOUT).
func Rename(oldDir int, oldName string, newDir int, newName string, flags uint) error {
	if flags == 0 {
		return pathError("rename", oldName, unix.Renameat(oldDir, oldName, newDir, newName))
	}
	return pathError("rename", oldName, unix.Renameat2(oldDir, oldName, newDir, newName, flags))
}

// Readlink returns what the symbolic link name in dir says.
func Readlink(dir int, name string) (string, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return "", pathError("readlink", name, err)
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// Chmod sets the permission bits (07777) of name, which must not be a symbolic
// link: those have no mode of their own.
func Chmod(dir int, name string, mode uint32) error {
	if name == "" {
		err := unix.Fchmod(dir, mode)
		if err == unix.EBADF { // open as a path only
			err = unix.Chmod(procFD(dir), mode)
		}
		return pathError("chmod", name, err)
	}
	err := unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW)
	if err != unix.EOPNOTSUPP && err != unix.ENOSYS {
		return pathError("chmod", name, err)
	}
	// Before Linux 6.6 there is no fchmodat2.
	fd, err := Open(dir, name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // O_PATH
	return pathError("chmod", name, unix.Chmod(procFD(fd), mode))
}

// Chown sets owner and group of name itself; -1 leaves one as it is.
func Chown(dir int, name string, uid, gid int) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	return pathError("chown", name, unix.Fchownat(dir, name, uid, gid, flags))
}

// Utimes sets access and modification time of name itself. The Nsec of either
// may be UTIME_OMIT or UTIME_NOW.
func Utimes(dir int, name string, atime, mtime unix.Timespec) error {
	times, flags := [2]unix.Timespec{atime, mtime}, unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		// Half the price of an empty path, but not for what is open as a path only.
		_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(dir), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
		if errno != unix.EBADF {
			return pathError("utimensat", name, errnoError(errno))
		}
		flags |= unix.AT_EMPTY_PATH
	}
	return pathError("utimensat", name, unix.UtimesNanoAt(dir, name, times[:], flags))
}

func errnoError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// Exists tells whether name is in dir, whatever it is.
func Exists(dir int, name string) (bool, error) {
	var st unix.Stat_t
	err := Stat(dir, name, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}
