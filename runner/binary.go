package runner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const selfExe = "/proc/self/exe"

// sealPatience is how long the kernel is asked to seal memory. It says EBUSY while it has pages
// of it in hand itself, for which it waits an eighth of a second each time: a machine that has
// much to do, or moves its pages, may take longer.
const sealPatience = 5 * time.Second

// openBinary opens this program's file so that nobody who gets hold of it can
// write to it: the entry point "#!/proc/self/exe" makes the container's process
// 1 this very file, and /proc/1/exe in the container a way to it
// (CVE-2019-5736). The descriptor is on a read-only mount that is attached
// nowhere, so it can not be made writable either.
func openBinary() (*os.File, error) {
	fd, err := cloneMount(unix.AT_FDCWD, selfExe, 0)
	if errors.Is(err, unix.EINVAL) {
		// The file was executed from a mount of another namespace (StartSelf
		// does that); the same file has a name in this one, if we may walk it.
		fd, err = cloneOwnName()
	}
	if err != nil {
		return copyBinary()
	}
	return shield(fd, selfExe)
}

// shield makes of a mount that is attached nowhere one that can only be read.
func shield(fd int, name string) (*os.File, error) {
	if err := setMountFlags(fd, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID, 0); err != nil {
		_ = unix.Close(fd) // a mount of nothing
		return nil, fmt.Errorf("shield %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Shield opens the program at this path so that nobody who gets hold of it can write to
// it, as [Seal] does, and without a copy: on a mount that can only be read, which is
// attached nowhere. It fails for a file that can not be executed where it is. The file
// is the caller's to close.
func Shield(program string) (*os.File, error) {
	fd, err := cloneMount(unix.AT_FDCWD, program, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err = unix.Fstatfs(fd, &st); err == nil && st.Flags&unix.ST_NOEXEC != 0 {
		err = fmt.Errorf("%s: its file system is mounted noexec", program)
	}
	if err != nil {
		_ = unix.Close(fd) // a mount of nothing
		return nil, err
	}
	return shield(fd, program)
}

func cloneOwnName() (int, error) {
	name, err := os.Readlink(selfExe)
	if err != nil {
		return -1, err
	}
	fd, err := cloneMount(unix.AT_FDCWD, strings.TrimSuffix(name, " (deleted)"), 0)
	if err != nil {
		return -1, err
	}
	var own, found unix.Stat_t
	if err = errors.Join(unix.Stat(selfExe, &own), unix.Fstat(fd, &found)); err == nil &&
		(own.Dev != found.Dev || own.Ino != found.Ino) {
		err = fmt.Errorf("%s is not this program any more", name)
	}
	if err != nil {
		_ = unix.Close(fd) // a mount of nothing
		return -1, err
	}
	return fd, nil
}

// copyBinary copies this program to sealed memory: dearer, and always possible.
func copyBinary() (*os.File, error) {
	self, err := os.Open(selfExe)
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", selfExe, err)
	}
	defer func() { _ = self.Close() }() // only read
	return Seal(self)
}

// Seal copies a program to memory that nobody can change any more, to be executed by
// its descriptor, which is the caller's to close. It fails where memory can not be
// executed (vm.memfd_noexec).
func Seal(program io.Reader) (*os.File, error) {
	mem, err := sealed("varve", program)
	if err != nil {
		return nil, fmt.Errorf("seal a program: %w", err)
	}
	return mem, nil
}

// sealed is Seal, with a name for the memory, which /proc shows.
func sealed(name string, program io.Reader) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 all of them are executable
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	mem := os.NewFile(uintptr(fd), name)
	if err = fillAndSeal(mem, program); err != nil {
		return nil, errors.Join(err, mem.Close())
	}
	return mem, nil
}

func fillAndSeal(mem *os.File, program io.Reader) error {
	if _, err := io.Copy(mem, program); err != nil {
		return err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	for begin := time.Now(); ; {
		_, err := unix.FcntlInt(mem.Fd(), unix.F_ADD_SEALS, seals)
		if err != unix.EBUSY || time.Since(begin) > sealPatience {
			return err
		}
	}
}
