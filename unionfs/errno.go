package unionfs

import (
	"errors"
	"io"
	"log"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// status turns the error of an operation into what the kernel is told: the one
// place where that happens. An error that carries no number is EIO, and is
// logged. ENOSYS is never passed on: the kernel would stop asking for good.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	var errno unix.Errno
	switch {
	case errors.As(err, &errno) && errno != unix.ENOSYS:
		return fuse.Status(errno)
	case errors.Is(err, os.ErrNotExist):
		return fuse.ENOENT
	case errors.Is(err, io.ErrUnexpectedEOF): // a lower file shrank while it was copied
		return fuse.Status(unix.ESTALE)
	}
	log.Printf("varve: %v", err)
	return fuse.EIO
}

// opOf is the system call that failed, as a path error tells it.
func opOf(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Op
	}
	return ""
}
