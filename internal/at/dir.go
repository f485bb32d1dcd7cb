package at

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// Dirent is one name of a directory as getdents64(2) gives it.
type Dirent struct {
	Name string
	Ino  uint64
	Type uint8 // DT_REG, …; DT_UNKNOWN where the file system does not say
}

// ReadDir returns all names of the directory behind fd but "." and "..", in
// the file system's order. It reads from the beginning and moves the position
// of fd, so one descriptor must not be read by two goroutines at once.
func ReadDir(fd int) ([]Dirent, error) {
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return nil, pathError("seek", "", err)
	}
	var list []Dirent
	var buf [8 << 10]byte // on the stack: most directories are small, and many are read
	for {
		n, err := unix.Getdents(fd, buf[:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, pathError("getdents", "", err)
		case n == 0:
			return list, nil
		}
		list = parseDirents(buf[:max(n, 0)], list)
	}
}

// parseDirents reads struct linux_dirent64: ino 8, off 8, reclen 2, type 1, name.
func parseDirents(buf []byte, list []Dirent) []Dirent {
	for len(buf) >= 19 {
		size := int(binary.NativeEndian.Uint16(buf[16:]))
		if size < 19 || size > len(buf) {
			return list
		}
		name := buf[19:size]
		if end := bytes.IndexByte(name, 0); end >= 0 {
			name = name[:end]
		}
		if s := string(name); s != "." && s != ".." {
			list = append(list, Dirent{Name: s, Ino: binary.NativeEndian.Uint64(buf), Type: buf[18]})
		}
		buf = buf[size:]
	}
	return list
}

// RemoveAll removes name in dir and, if it is a directory, all below it,
// without following links and without crossing to another directory by a race.
// A name that is not there is no error.
func RemoveAll(dir int, name string) error {
	err := Unlink(dir, name)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	fd, err := openForRemoval(dir, name)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	list, err := ReadDir(fd)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := RemoveAll(fd, e.Name); err != nil {
			return err
		}
	}
	return Rmdir(dir, name)
}

// openForRemoval opens a directory to empty it. A directory of ours that we may
// not read or write, as tar and programs leave them, is first made ours again.
func openForRemoval(dir int, name string) (int, error) {
	var st unix.Stat_t
	if err := Stat(dir, name, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&0o700 != 0o700 {
		if err := Chmod(dir, name, st.Mode&0o7777|0o700); err != nil {
			return -1, err
		}
	}
	return OpenDir(dir, name)
}
