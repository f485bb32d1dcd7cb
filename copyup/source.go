package copyup

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// source is a regular file of a layer that is copied. It must not change meanwhile:
// what was copied would be neither the old nor the new.
type source struct {
	file    int         // open for reading; -1: none
	stat    unix.Stat_t // when it was opened
	attrs   []string    // the names of its extended attributes
	checked bool
}

// open opens the file of a job, if it is still that file.
func (f *source) open(j *Job) error {
	err := f.openWith(func() (int, error) {
		return at.Open(j.Lower, j.LowerName, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOATIME, 0)
	})
	if err == nil && j.Same != nil {
		err = j.Same(&f.stat)
	}
	if err == nil {
		f.attrs, err = at.Listxattr(f.file, "")
	}
	return err
}

func (f *source) openWith(open func() (int, error)) (err error) {
	if f.file, err = open(); err != nil {
		f.file = -1
		return err
	}
	return os.NewSyscallError("fstat", unix.Fstat(f.file, &f.stat))
}

// isMetacopy tells whether another file has the data.
func (f *source) isMetacopy() bool { return slices.ContainsFunc(f.attrs, whiteout.IsMetacopyAttr) }

// unchanged is ESTALE if the file was written to since it was opened. live says that it
// may be.
func (f *source) unchanged(live bool) error {
	if f.file < 0 {
		return nil
	}
	f.checked = true
	if live {
		return nil
	}
	var now unix.Stat_t
	if err := unix.Fstat(f.file, &now); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if now.Size != f.stat.Size || now.Mtim != f.stat.Mtim {
		return fmt.Errorf("it changed while it was copied: %w", unix.ESTALE)
	}
	return nil
}

func (f *source) close() {
	if f.file >= 0 {
		_ = unix.Close(f.file) // read only
		f.file = -1
	}
}
