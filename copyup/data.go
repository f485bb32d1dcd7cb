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
func (s *Staged) makeRegular() error {
	j := &s.job
	if err := s.create(); err != nil {
		return err
	}
	if err := unix.Fstat(s.file, &s.made); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if j.Instead != nil {
		return s.writeInstead()
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
	if err := s.from.open(j); err != nil {
		return err
	}
	if err := s.copyFrom(); err != nil {
		return err
	}
	return s.sync()
}

// writeInstead writes what is in a file that stands for another one.
func (s *Staged) writeInstead() error {
	j := &s.job
	j.Metadata = false
	if len(j.Instead) == 0 {
		return nil
	}
	if err := j.step("data", func() error { return at.WriteAll(s.file, j.Instead) }); err != nil {
		return err
	}
	return s.sync()
}

func (s *Staged) sync() error {
	if s.job.Volatile {
		return nil
	}
	return s.job.step("sync", func() error { return os.NewSyscallError("fsync", unix.Fsync(s.file)) })
}

// create makes the file without a name: it gets its first one when it is whole, and a
// crash before that leaves nothing. That is also cheaper than to move it. File systems
// that know no such files (NFS, FUSE) get one in the work directory.
func (s *Staged) create() (err error) {
	j := &s.job
	// The mode it is to have, if that lets us set attributes: chmod is then saved.
	// Nobody else can reach it.
	mode := j.Stat.Mode&0o777 | 0o600
	err = j.step("nameless", func() error { s.file, err = at.Tempfile(j.Work, mode); return err })
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return err
	}
	s.named = true
	s.file, err = at.Open(j.Work, j.Temp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOATIME, mode)
	return err
}

// copyFrom copies the data, from the file that has it.
func (s *Staged) copyFrom() error {
	j := &s.job
	if !s.from.isMetacopy() {
		return j.step("data", func() error { return s.copyData(s.from.file, &s.from.stat) })
	}
	data := source{file: -1}
	defer data.close()
	err := data.openWith(j.OpenData)
	if err == nil {
		err = j.step("data", func() error { return s.copyData(data.file, &data.stat) })
	}
	if err == nil {
		err = data.unchanged(j.Live)
	}
	return err
}

// copyData copies the data of the file behind in, which had stat when it was opened. A
// file that ends before it should was changed.
func (s *Staged) copyData(in int, stat *unix.Stat_t) (err error) {
	if s.job.Live { // it may have been written to
		var now unix.Stat_t
		if err := unix.Fstat(in, &now); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		stat = &now
	}
	s.way, err = copyData(in, s.file, stat)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: %w", err, unix.ESTALE)
	}
	return err
}

// markMetacopy gives the file its size, but not before the mark: it never looks as if
// it were full of zeros.
func (s *Staged) markMetacopy() error {
	if err := whiteout.SetMetacopy(s.file); err != nil {
		return err
	}
	return os.NewSyscallError("ftruncate", unix.Ftruncate(s.file, s.job.Stat.Size))
}

// smallFile is the size up to which a file is not worth the try to share it: one
// system call more, which few file systems grant. copy_file_range tries it, too.
const smallFile = 64 << 10

// tinyFile is the size up to which it takes longer to tell the kernel to copy a file
// than to do it: measured on tmpfs, and the same on ext4. To share a block of a file of
// one is not worth much.
const tinyFile = 4 << 10

// Data copies the regular file behind in to the empty one behind out: as a
// shared copy (FICLONE) where the file system can, else extent by extent with
// copy_file_range(2), else by reading and writing. Holes stay holes. Both
// descriptors stay the caller's; their positions do not matter.
func Data(in, out int) error {
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	_, err := copyData(in, out, &st)
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

// copyData is Data for a file that has st.
func copyData(in, out int, st *unix.Stat_t) (Way, error) {
	if st.Size > smallFile && unix.IoctlFileClone(out, in) == nil {
		return Reflink, nil
	}
	c := copier{in: in, out: out, plain: st.Size <= tinyFile}
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
