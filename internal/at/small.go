package at

import (
	"errors"

	"golang.org/x/sys/unix"
)

// ReadFile returns what is in the regular file name in dir, "" for dir itself, which is
// small: one of more than most bytes is EFBIG. Anything else than a regular file is EINVAL.
func ReadFile(dir int, name string, most int) (data []byte, err error) {
	fd, flags := -1, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOATIME
	if name == "" {
		fd, err = Reopen(dir, flags)
	} else {
		fd, err = Open(dir, name, flags, 0)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	var st unix.Stat_t
	switch err := Stat(fd, "", &st); {
	case err != nil:
		return nil, err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, pathError("read", name, unix.EINVAL)
	case st.Size > int64(most):
		return nil, pathError("read", name, unix.EFBIG)
	}
	data = make([]byte, st.Size)
	for read := 0; read < len(data); {
		var n int
		err := again(func() (err error) { n, err = unix.Pread(fd, data[read:], int64(read)); return err })
		if err != nil {
			return nil, pathError("read", name, err)
		}
		if n == 0 {
			return data[:read], nil
		}
		read += n
	}
	return data, nil
}

// WriteFile makes name in dir a regular file of mode 0600, before the umask, with these few
// bytes. After an error it may be there, and not whole.
func WriteFile(dir int, name string, data []byte) error {
	fd, err := Open(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = WriteAll(fd, data)
	return errors.Join(err, pathError("close", name, unix.Close(fd)))
}

// WriteAll writes these few bytes to the beginning of an open file.
func WriteAll(fd int, data []byte) error {
	for off := 0; off < len(data); {
		var n int
		err := again(func() (err error) { n, err = unix.Pwrite(fd, data[off:], int64(off)); return err })
		if err != nil {
			return pathError("write", "", err)
		}
		off += n
	}
	return nil
}
