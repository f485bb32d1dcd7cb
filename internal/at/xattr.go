package at

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"
)

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// xattrCalls are the four system calls on one file. The kernel has no *at form
// of them before 6.13, so they go by a path through /proc: for a name the form
// that does not follow links, for "" the one that follows /proc's own link.
type xattrCalls struct {
	path   string
	get    func(path, attr string, dest []byte) (int, error)
	set    func(path, attr string, value []byte, flags int) error
	list   func(path string, dest []byte) (int, error)
	remove func(path, attr string) error
}

func xattrsOf(dir int, name string) xattrCalls {
	if name == "" {
		return xattrCalls{procFD(dir), unix.Getxattr, unix.Setxattr, unix.Listxattr, unix.Removexattr}
	}
	path := name
	if dir != CWD {
		path = procFD(dir) + "/" + name
	}
	return xattrCalls{path, unix.Lgetxattr, unix.Lsetxattr, unix.Llistxattr, unix.Lremovexattr}
}

// Getxattr returns the value of attr of name in dir; for "" of dir itself. A
// missing attribute is ENODATA.
func Getxattr(dir int, name, attr string) ([]byte, error) {
	call := xattrsOf(dir, name)
	buf := make([]byte, 128)
	for {
		n, err := call.get(call.path, attr, buf)
		if err == unix.ERANGE {
			if n, err = call.get(call.path, attr, nil); err == nil {
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
	call := xattrsOf(dir, name)
	return pathError("setxattr "+attr, name, call.set(call.path, attr, value, flags))
}

// Removexattr removes attr of name in dir.
func Removexattr(dir int, name, attr string) error {
	call := xattrsOf(dir, name)
	return pathError("removexattr "+attr, name, call.remove(call.path, attr))
}

// Listxattr returns the names of all attributes of name in dir that the caller
// may see, in the file system's order. A file system without attributes has none.
func Listxattr(dir int, name string) ([]string, error) {
	call := xattrsOf(dir, name)
	var buf []byte
	for {
		n, err := call.list(call.path, buf)
		if err == unix.ERANGE || (err == nil && buf == nil && n > 0) {
			if n, err = call.list(call.path, nil); err == nil {
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
