package at

import (
	"bytes"
	"errors"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// xattrCalls are the four system calls on one file.
type xattrCalls interface {
	get(attr string, dest []byte) (int, error)
	set(attr string, value []byte, flags int) error
	list(dest []byte) (int, error)
	remove(attr string) error
}

// xattrsOf picks the cheapest calls that the kernel has. A way through /proc costs
// 5 µs more than one by descriptor.
func xattrsOf(dir int, name string) xattrCalls {
	switch {
	case name == "":
		return openXattrs(dir)
	case dir == CWD:
		return pathXattrs{name, true}
	case hasXattrAt():
		return atXattrs{dir, name}
	}
	return pathXattrs{procFD(dir) + "/" + name, true}
}

// hasXattrAt tells whether the kernel has the *at forms: Linux 6.13, unless a
// filter of system calls does not know them.
var hasXattrAt = sync.OnceValue(func() bool {
	_, err := atXattrs{CWD, "/"}.list(nil)
	return !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM)
})

// atXattrs is a name in a directory.
type atXattrs struct {
	dir  int
	name string
}

// xattrArgs is struct xattr_args of Linux.
type xattrArgs struct {
	value *byte
	size  uint32
	flags uint32
}

func argsOf(value []byte, flags int) xattrArgs {
	return xattrArgs{unsafe.SliceData(value), uint32(len(value)), uint32(flags)}
}

func (f atXattrs) get(attr string, dest []byte) (int, error) {
	args := argsOf(dest, 0)
	return f.call(unix.SYS_GETXATTRAT, attr, unsafe.Pointer(&args), unsafe.Sizeof(args))
}

func (f atXattrs) set(attr string, value []byte, flags int) error {
	args := argsOf(value, flags)
	_, err := f.call(unix.SYS_SETXATTRAT, attr, unsafe.Pointer(&args), unsafe.Sizeof(args))
	return err
}

func (f atXattrs) remove(attr string) error {
	_, err := f.call(unix.SYS_REMOVEXATTRAT, attr, nil, 0)
	return err
}

func (f atXattrs) list(dest []byte) (int, error) {
	name, err := unix.BytePtrFromString(f.name)
	if err != nil {
		return 0, err
	}
	n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(f.dir), uintptr(unsafe.Pointer(name)),
		unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(unsafe.SliceData(dest))), uintptr(len(dest)), 0)
	return result(n, errno)
}

// call is one of the three calls that name an attribute; args may be nil.
func (f atXattrs) call(trap uintptr, attr string, args unsafe.Pointer, size uintptr) (int, error) {
	name, err := unix.BytePtrFromString(f.name)
	if err != nil {
		return 0, err
	}
	attrName, err := unix.BytePtrFromString(attr)
	if err != nil {
		return 0, err
	}
	n, _, errno := unix.Syscall6(trap, uintptr(f.dir), uintptr(unsafe.Pointer(name)), unix.AT_SYMLINK_NOFOLLOW,
		uintptr(unsafe.Pointer(attrName)), uintptr(args), size)
	return result(n, errno)
}

func result(n uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// openXattrs is an open file. One that is open as a path only (O_PATH) has no calls
// but by its path in /proc, which there leads to the file itself.
type openXattrs int

func (fd openXattrs) byPath() pathXattrs { return pathXattrs{procFD(int(fd)), false} }

func (fd openXattrs) get(attr string, dest []byte) (int, error) {
	n, err := unix.Fgetxattr(int(fd), attr, dest)
	if err == unix.EBADF {
		return fd.byPath().get(attr, dest)
	}
	return n, err
}

func (fd openXattrs) set(attr string, value []byte, flags int) error {
	err := unix.Fsetxattr(int(fd), attr, value, flags)
	if err == unix.EBADF {
		return fd.byPath().set(attr, value, flags)
	}
	return err
}

func (fd openXattrs) list(dest []byte) (int, error) {
	n, err := unix.Flistxattr(int(fd), dest)
	if err == unix.EBADF {
		return fd.byPath().list(dest)
	}
	return n, err
}

func (fd openXattrs) remove(attr string) error {
	err := unix.Fremovexattr(int(fd), attr)
	if err == unix.EBADF {
		return fd.byPath().remove(attr)
	}
	return err
}

// pathXattrs is a path: for kernels without the *at forms, and for roots.
type pathXattrs struct {
	path string
	link bool // a symbolic link at its end is meant itself
}

func (f pathXattrs) get(attr string, dest []byte) (int, error) {
	if f.link {
		return unix.Lgetxattr(f.path, attr, dest)
	}
	return unix.Getxattr(f.path, attr, dest)
}

func (f pathXattrs) set(attr string, value []byte, flags int) error {
	if f.link {
		return unix.Lsetxattr(f.path, attr, value, flags)
	}
	return unix.Setxattr(f.path, attr, value, flags)
}

func (f pathXattrs) list(dest []byte) (int, error) {
	if f.link {
		return unix.Llistxattr(f.path, dest)
	}
	return unix.Listxattr(f.path, dest)
}

func (f pathXattrs) remove(attr string) error {
	if f.link {
		return unix.Lremovexattr(f.path, attr)
	}
	return unix.Removexattr(f.path, attr)
}

// Getxattr returns the value of attr of name in dir; for "" of dir itself. A
// missing attribute is ENODATA.
func Getxattr(dir int, name, attr string) ([]byte, error) {
	calls := xattrsOf(dir, name)
	buf := make([]byte, 128)
	for {
		n, err := calls.get(attr, buf)
		if err == unix.ERANGE {
			if n, err = calls.get(attr, nil); err == nil {
				buf = make([]byte, n+64)
				continue
			}
		}
		if err == unix.ENODATA { // nearly always, so it costs no allocation
			return nil, err
		}
		if err != nil {
			return nil, pathError("getxattr "+attr, name, err)
		}
		return buf[:n], nil
	}
}

// Setxattr sets attr of name in dir; flags may be XATTR_CREATE or XATTR_REPLACE.
func Setxattr(dir int, name, attr string, value []byte, flags int) error {
	return pathError("setxattr "+attr, name, xattrsOf(dir, name).set(attr, value, flags))
}

// Removexattr removes attr of name in dir.
func Removexattr(dir int, name, attr string) error {
	return pathError("removexattr "+attr, name, xattrsOf(dir, name).remove(attr))
}

// Listxattr returns the names of all attributes of name in dir that the caller
// may see, in the file system's order. A file system without attributes has none.
func Listxattr(dir int, name string) ([]string, error) {
	calls := xattrsOf(dir, name)
	var buf []byte
	for {
		n, err := calls.list(buf)
		if err == unix.ERANGE || (err == nil && buf == nil && n > 0) {
			if n, err = calls.list(nil); err == nil {
				buf = make([]byte, n+64)
				continue
			}
		}
		if err == unix.EOPNOTSUPP {
			return nil, nil
		}
		if err != nil {
			return nil, pathError("listxattr", name, err)
		}
		return splitNames(buf[:n]), nil
	}
}

func splitNames(list []byte) []string {
	var names []string
	for name := range bytes.SplitSeq(list, []byte{0}) {
		if len(name) > 0 {
			names = append(names, string(name))
		}
	}
	return names
}
