package bench

import (
	"bytes"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below go to the kernel without telling Go's scheduler, and take names
// that end in a zero byte: what is timed is the file system. The thread keeps its
// Go processor while it waits; the client has nothing else to do.

// name is a path as the kernel takes it.
type name = *byte

// cwd is AT_FDCWD.
var cwd = unix.AT_FDCWD

// names are paths with zero bytes behind them, in one piece of memory.
func names(paths []string) []name {
	size := 0
	for _, p := range paths {
		size += len(p) + 1
	}
	all, list := make([]byte, 0, size), make([]name, 0, len(paths))
	for _, p := range paths {
		start := len(all)
		all = append(append(all, p...), 0)
		list = append(list, &all[start])
	}
	return list
}

// text is the path of a name, for errors.
func text(n name) string { return unix.BytePtrToString(n) }

func pathError(op string, n name, errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return &os.PathError{Op: op, Path: text(n), Err: errno}
}

// lstat is what lstat(3) asks for, with statx.
func lstat(dir int, n name, st *unix.Statx_t) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(n)),
		unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(st)), 0)
	return errno
}

func open(dir int, n name, flags int) (int, error) {
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(n)),
		uintptr(flags|unix.O_CLOEXEC|unix.O_NOFOLLOW), 0o644, 0, 0)
	return int(fd), pathError("open", n, errno)
}

func closeFD(fd int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
	return asError("close", errno)
}

func asError(op string, errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return os.NewSyscallError(op, errno)
}

// transfer is pread and pwrite (with an offset), read and write (with off < 0). It
// fails unless all of buf went, for a file that is long enough.
func transfer(with, at uintptr, fd int, buf []byte, off int64) error {
	var n uintptr
	var errno unix.Errno
	if off < 0 {
		n, _, errno = unix.RawSyscall(with, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	} else {
		n, _, errno = unix.RawSyscall6(at, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), uintptr(off), 0, 0)
	}
	if errno == 0 && int(n) != len(buf) {
		return fmt.Errorf("%d bytes of %d", n, len(buf))
	}
	return asError("read or write", errno)
}

func read(fd int, buf []byte, off int64) error {
	return transfer(unix.SYS_READ, unix.SYS_PREAD64, fd, buf, off)
}

func write(fd int, buf []byte, off int64) error {
	return transfer(unix.SYS_WRITE, unix.SYS_PWRITE64, fd, buf, off)
}

// change is a call that takes one name below the working directory and a number.
func change(call uintptr, n name, arg uintptr) error {
	_, _, errno := unix.RawSyscall(call, uintptr(cwd), uintptr(unsafe.Pointer(n)), arg)
	return pathError("change", n, errno)
}

func rename(from, to name) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RENAMEAT2, uintptr(cwd), uintptr(unsafe.Pointer(from)),
		uintptr(cwd), uintptr(unsafe.Pointer(to)), 0, 0)
	return pathError("rename", from, errno)
}

// direntName is where the name begins in a struct linux_dirent64.
const direntName = 19

// readdir calls each with every name of an open directory but "." and "..".
func readdir(fd int, buf []byte, each func(n name, kind byte) error) error {
	for {
		got, _, errno := unix.RawSyscall(unix.SYS_GETDENTS64, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		if errno != 0 || got == 0 {
			return asError("getdents", errno)
		}
		for at := 0; at < int(got); {
			entry := buf[at:]
			at += int(entry[16]) | int(entry[17])<<8 // d_reclen
			if bytes.HasPrefix(entry[direntName:], []byte(".\x00")) || bytes.HasPrefix(entry[direntName:], []byte("..\x00")) {
				continue
			}
			if err := each(&entry[direntName], entry[direntName-1]); err != nil {
				return err
			}
		}
	}
}
