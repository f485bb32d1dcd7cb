package copyup

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// makeRegular makes a regular file and leaves it open, for what is to be done with
// it here and later.
func (s *Staged) makeRegular() (err error) {
	j := &s.job
	// The mode it is to have, if that lets us set attributes: chmod is then saved.
	// Nobody else can reach it in the work directory.
	mode := j.Stat.Mode&0o777 | 0o600
	if s.file, err = at.Open(j.Work, j.Temp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOATIME, mode); err != nil {
		return err
	}
	if err := unix.Fstat(s.file, &s.made); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if j.Empty || j.Stat.Size == 0 {
		j.Metadata = false
		return nil
	}
	if j.Metadata {
		err := j.step("mark", s.markMetacopy)
		if j.Metadata = err == nil; err == nil || !notPermitted(err) {
			return err
		}
	}
	in, err := j.openData()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(in) }() // read only
	err = j.steady(in, func() error {
		return j.step("data", func() (err error) { s.way, err = copyData(in, s.file); return err })
	})
	if err != nil {
		return err
	}
	if j.Volatile {
		return nil
	}
	return j.step("sync", func() error { return os.NewSyscallError("fsync", unix.Fsync(s.file)) })
}

// steady does something with the lower file behind in, which must not change
// meanwhile: what was copied would be neither the old nor the new. That is ESTALE.
func (j *Job) steady(in int, act func() error) error {
	var before, after unix.Stat_t
	if err := unix.Fstat(in, &before); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if err := act(); err != nil {
		return err
	}
	if err := unix.Fstat(in, &after); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if !j.Live && (before.Size != after.Size || before.Mtim != after.Mtim) {
		return fmt.Errorf("it changed while it was copied: %w", unix.ESTALE)
	}
	return nil
}

// markMetacopy gives the file its size, but not before the mark: it never looks as if
// it were full of zeros.
func (s *Staged) markMetacopy() error {
	if err := whiteout.SetMetacopy(s.file); err != nil {
		return err
	}
	return os.NewSyscallError("ftruncate", unix.Ftruncate(s.file, s.job.Stat.Size))
}

func (j *Job) openData() (int, error) {
	if j.OpenData != nil {
		return j.OpenData()
	}
	return at.Open(j.Lower, j.LowerName, unix.O_RDONLY|unix.O_NOATIME, 0)
}

// smallFile is the size up to which a file is not worth the try to share it: one
// system call more, which few file systems grant. copy_file_range tries it, too.
const smallFile = 64 << 10

// Data copies the regular file behind in to the empty one behind out: as a
// shared copy (FICLONE) where the file system can, else extent by extent with
// copy_file_range(2), else by reading and writing. Holes stay holes. Both
// descriptors stay the caller's; their positions do not matter.
func Data(in, out int) error {
	_, err := copyData(in, out)
	return err
}

// Way is how the data of a file came to its copy.
type Way int

const (
	NoData        Way = iota // there is none, or none was wanted
	Reflink                  // the two share it
	CopyFileRange            // by copy_file_range(2)
	ReadWrite                // through this process, at least in part
)

func copyData(in, out int) (Way, error) {
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return NoData, os.NewSyscallError("fstat", err)
	}
	if st.Size > smallFile && unix.IoctlFileClone(out, in) == nil {
		return Reflink, nil
	}
	c := copier{in: in, out: out}
	copyAll := c.sparse
	if st.Blocks*512 >= st.Size { // no holes, as almost always
		copyAll = func(size int64) error { return c.extent(0, size) }
	}
	if err := copyAll(st.Size); err != nil {
		return NoData, err
	}
	return c.way(), nil
}

type copier struct {
	in, out int
	plain   bool   // copy_file_range does not work between these two
	buf     []byte // for plain
}

func (c *copier) way() Way {
	if c.plain {
		return ReadWrite
	}
	return CopyFileRange
}

// sparse copies the extents that hold data and sets the size.
func (c *copier) sparse(size int64) error {
	for off := int64(0); off < size; {
		start, err := unix.Seek(c.in, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole follows
		}
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		end, err := unix.Seek(c.in, start, unix.SEEK_HOLE)
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		if err := c.extent(start, end-start); err != nil {
			return err
		}
		off = end
	}
	return os.NewSyscallError("ftruncate", unix.Ftruncate(c.out, size))
}

func (c *copier) extent(off, length int64) error {
	for length > 0 {
		n, err := c.some(off, length)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("the file ended at byte %d, %d bytes early: %w", off, length, io.ErrUnexpectedEOF)
		}
		off, length = off+int64(n), length-int64(n)
	}
	return nil
}

func (c *copier) some(off, length int64) (int, error) {
	if !c.plain {
		from, to := off, off
		n, err := unix.CopyFileRange(c.in, &from, c.out, &to, int(min(length, 1<<30)), 0)
		switch {
		case err == nil && n > 0:
			return n, nil
		case err == nil, errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL),
			errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			c.plain = true // some file systems (procfs, FUSE) answer 0 for "cannot"
		default:
			return 0, os.NewSyscallError("copy_file_range", err)
		}
	}
	if c.buf == nil {
		c.buf = make([]byte, min(length, 1<<20))
	}
	n, err := unix.Pread(c.in, c.buf[:min(length, int64(len(c.buf)))], off)
	if err != nil {
		return 0, os.NewSyscallError("pread", err)
	}
	n, err = unix.Pwrite(c.out, c.buf[:n], off) // fewer on a disk that is filling up; the next call says so
	return n, os.NewSyscallError("pwrite", err)
}
