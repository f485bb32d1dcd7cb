package copyup

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// Completion brings up the data of a file of the upper that has only its metadata
// there ([Job].Metadata), into that file.
//
// The file is marked as one without data until all of it is there and durable. So at
// every moment, also after a crash, it is read as it was: only its times may then be
// those of the try.
type Completion struct {
	// Data is a descriptor of the data, open for reading; -1 if nobody needs it any
	// more, and the file is to be empty. It stays the caller's.
	Data int
	// File is the file of the upper, open for reading and writing. It stays the
	// caller's.
	File int
	// Volatile leaves out the fsync: after a power failure the file may be empty.
	Volatile bool

	way    Way
	bytes  int64
	before func(step string) error // tests make one step after the other fail here
}

// Copied is [Staged.Copied].
func (c *Completion) Copied() (way Way, bytes int64) { return c.way, c.bytes }

// Run brings the data up. Owner, mode, times and extended attributes stay. After an
// error the file is still without data, and Run may be called again.
func (c *Completion) Run() error {
	if err := c.run(); err != nil {
		return fmt.Errorf("copy up the data: %w", err)
	}
	return nil
}

func (c *Completion) run() error {
	if c.Data < 0 {
		return c.empty()
	}
	var kept kept
	if err := kept.read(c.File); err != nil {
		return err
	}
	err := c.step("data", func() error { return c.data(kept.stat.Size) })
	if err != nil {
		// The space is given back; what stays is not looked at.
		_ = unix.Fallocate(c.File, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, kept.stat.Size)
	}
	err = errors.Join(err, c.step("keep", func() error { return kept.write(c.File) }))
	if err == nil && !c.Volatile {
		err = c.step("sync", func() error { return os.NewSyscallError("fsync", unix.Fsync(c.File)) })
	}
	if err != nil {
		return err
	}
	return c.step("unmark", func() error { return whiteout.UnsetMetacopy(c.File) })
}

// empty drops the data. First the size, for the mark taken off a file with a size
// would turn it into zeros.
func (c *Completion) empty() error {
	err := c.step("truncate", func() error { return os.NewSyscallError("ftruncate", unix.Ftruncate(c.File, 0)) })
	if err != nil {
		return err
	}
	return c.step("unmark", func() error { return whiteout.UnsetMetacopy(c.File) })
}

// data copies the data, whose size the file has already. One that was truncated to
// nothing when a crash came has none.
func (c *Completion) data(size int64) error {
	if size == 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(c.Data, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Size != size {
		return fmt.Errorf("the layer has %d bytes of data for a file of %d: %w", st.Size, size, unix.EIO)
	}
	c.bytes = size
	var err error
	c.way, err = copyData(c.Data, c.File, &st)
	return err
}

func (c *Completion) step(name string, fn func() error) error {
	if c.before != nil {
		if err := c.before(name); err != nil {
			return err
		}
	}
	return fn()
}

// kept is what writing to a file changes beside its data.
type kept struct {
	stat unix.Stat_t
	caps []byte // security.capability; nil: none
}

// CapsAttr holds the capabilities of a program. Writing to the file removes it.
const CapsAttr = "security.capability"

func (k *kept) read(fd int) error {
	if err := unix.Fstat(fd, &k.stat); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	buf := make([]byte, 64) // the longest there is has 24
	n, err := unix.Fgetxattr(fd, CapsAttr, buf)
	switch {
	case err == nil:
		k.caps = buf[:n]
	case !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP):
		return os.NewSyscallError("getxattr "+CapsAttr, err)
	}
	return nil
}

func (k *kept) write(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode != k.stat.Mode {
		if err := unix.Fchmod(fd, k.stat.Mode&0o7777); err != nil {
			return os.NewSyscallError("fchmod", err)
		}
	}
	if k.caps != nil {
		if err := unix.Fsetxattr(fd, CapsAttr, k.caps, 0); err != nil && !notPermitted(err) {
			return os.NewSyscallError("setxattr "+CapsAttr, err)
		}
	}
	return at.Utimes(fd, "", k.stat.Atim, k.stat.Mtim)
}
