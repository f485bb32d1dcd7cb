package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Workload is one operation on a mounted view.
type Workload struct {
	Name string
	Ops  int // operations a visit; those that use something up have no more than this
	// Run does n operations below mnt, at most Ops, and tells how long they took
	// without what was prepared before and checked after.
	Run func(mnt string, n int) (time.Duration, error)
}

// Workloads lists all workloads, in the order of the report.
func Workloads() []Workload {
	return []Workload{
		{Name: "lstat, warm", Ops: 20000, Run: lstatWarm},
		{Name: "absent name, again", Ops: 20000, Run: absentAgain},
		{Name: "open+read+close, again", Ops: 10000, Run: readAgain},
		{Name: "readdir of 100, warm", Ops: 2000, Run: readdirWarm},
		{Name: "create + write 1 KiB + close", Ops: 500, Run: create},
		{Name: "copy-up by a 1-byte append", Ops: copyUpFiles, Run: copyUp},
	}
}

// timed calls op n times and tells how long that took.
func timed(n int, op func(i int) error) (time.Duration, error) {
	start := time.Now()
	for i := range n {
		if err := op(i); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// again does one round over count things before n timed ones.
func again(n, count int, op func(i int) error) (time.Duration, error) {
	if _, err := timed(count, op); err != nil {
		return 0, err
	}
	return timed(n, func(i int) error { return op(i % count) })
}

// names makes paths for a function of the index.
func names(mnt string, count int, name func(i int) string) []string {
	list := make([]string, count)
	for i := range list {
		list[i] = filepath.Join(mnt, name(i))
	}
	return list
}

func allFiles(mnt string) []string {
	return names(mnt, dirs*filesOfDir, func(i int) string { return fileName(i/filesOfDir, i%filesOfDir) })
}

func lstatWarm(mnt string, n int) (time.Duration, error) {
	files := allFiles(mnt)
	return again(n, len(files), func(i int) error {
		var st unix.Stat_t
		if err := unix.Lstat(files[i], &st); err != nil || st.Size != smallFile {
			return fmt.Errorf("lstat %s: size %d: %w", files[i], st.Size, err)
		}
		return nil
	})
}

func absentAgain(mnt string, n int) (time.Duration, error) {
	files := names(mnt, dirs*filesOfDir, func(i int) string { return fileName(i/filesOfDir, i%filesOfDir) + ".absent" })
	return again(n, len(files), func(i int) error {
		var st unix.Stat_t
		if err := unix.Lstat(files[i], &st); !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("lstat of %s, which is absent: %w", files[i], err)
		}
		return nil
	})
}

func readAgain(mnt string, n int) (time.Duration, error) {
	files := allFiles(mnt)
	buf := make([]byte, 2*smallFile)
	return again(n, len(files), func(i int) error {
		fd, err := unix.Open(files[i], unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: files[i], Err: err}
		}
		got, err := unix.Read(fd, buf)
		if err := errors.Join(err, unix.Close(fd)); err != nil || got != smallFile || buf[0] != 'v' {
			return fmt.Errorf("read %s: %d bytes: %w", files[i], got, err)
		}
		return nil
	})
}

func readdirWarm(mnt string, n int) (time.Duration, error) {
	list := names(mnt, dirs, dirName)
	buf := make([]byte, 32<<10)
	return again(n, len(list), func(i int) error {
		entries, err := readdir(list[i], buf)
		if err != nil || entries != filesOfDir {
			return fmt.Errorf("readdir %s: %d entries: %w", list[i], entries, err)
		}
		return nil
	})
}

// readdir counts the names of a directory.
func readdir(path string, buf []byte) (entries int, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	for {
		got, err := unix.Getdents(fd, buf)
		if got <= 0 || err != nil {
			return entries, errors.Join(err, unix.Close(fd))
		}
		_, count, _ := unix.ParseDirent(buf[:got], -1, nil)
		entries += count // without "." and ".."
	}
}

func create(mnt string, n int) (time.Duration, error) {
	files := names(mnt, n, func(i int) string { return fmt.Sprintf("d%02d/new%04d", i%dirs, i) })
	data := []byte(strings.Repeat("n", smallFile))
	took, err := timed(n, func(i int) error {
		return writeFile(files[i], unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, data)
	})
	return took, errors.Join(err, checkSizes(files, smallFile, err))
}

func copyUp(mnt string, n int) (time.Duration, error) {
	files := names(mnt, n, lowName)
	took, err := timed(n, func(i int) error {
		return writeFile(files[i], unix.O_WRONLY|unix.O_APPEND, []byte{'!'})
	})
	return took, errors.Join(err, checkSizes(files, smallFile+1, err))
}

func writeFile(path string, flags int, data []byte) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	wrote, err := unix.Write(fd, data)
	if err := errors.Join(err, unix.Close(fd)); err != nil || wrote != len(data) {
		return fmt.Errorf("write %s: %d bytes: %w", path, wrote, err)
	}
	return nil
}

// checkSizes looks at what was written, unless writing failed already.
func checkSizes(files []string, size int64, before error) error {
	if before != nil {
		return nil
	}
	for _, path := range files {
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if info.Size() != size {
			return fmt.Errorf("%s has %d bytes instead of %d", path, info.Size(), size)
		}
	}
	return nil
}
