package at

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"
)

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// xattrPath is a path that ends in name and begins at dir. The kernel has no
// *at form of these calls before 6.13, so they go through /proc.
func xattrPath(dir int, name string) string {
	if dir == CWD {
		return name
	}
	if name == "" {
		return procFD(dir) + "/."
	}
	return procFD(dir) + "/" + name
}

// Getxattr returns the value of attr of name in dir; for "" of dir itself. A
// missing attribute is ENODATA.
func Getxattr(dir int, name, attr string) ([]byte, error) {
	path := xattrPath(dir, name)
	buf := make([]byte, 128)
	for {
		n, err := unix.Lgetxattr(path, attr, buf)
		if err == unix.ERANGE {
			if n, err = unix.Lgetxattr(path, attr, nil); err == nil {
				buf = make([]byte, n+64)
				continue
			}
		}
		if err != nil {
			return nil, pathError("getxattr "+attr, name, err)
		}
		return buf[:n], nil
	}
}

// Setxattr sets attr of name in dir; flags may be XATTR_CREATE or XATTR_REPLACE.
func Setxattr(dir int, name, attr string, value []byte, flags int) error {
	return pathError("setxattr "+attr, name, unix.Lsetxattr(xattrPath(dir, name), attr, value, flags))
}

// Removexattr removes attr of name in dir.
func Removexattr(dir int, name, attr string) error {
	return pathError("removexattr "+attr, name, unix.Lremovexattr(xattrPath(dir, name), attr))
}

// Listxattr returns the names of all attributes of name in dir that the caller
// may see, in the file system's order. A file system without attributes has none.
func Listxattr(dir int, name string) ([]string, error) {
	path := xattrPath(dir, name)
	var buf []byte
	for {
		n, err := unix.Llistxattr(path, buf)
		if err == unix.ERANGE || (err == nil && buf == nil && n > 0) {
			if n, err = unix.Llistxattr(path, nil); err == nil {
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
