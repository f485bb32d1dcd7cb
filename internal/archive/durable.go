package archive

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
)

// fewFiles is up to how many files a layer is synced file by file. syncfs(2) is far
// cheaper than thousands of fsync(2), but writes what everybody else has written
// to the file system, too.
const fewFiles = 64

// SyncLayer makes the layer in a stage durable, but for the name of the stage. Nothing
// may be written to it after.
func SyncLayer(stage *layout.Stage) error {
	dir, err := at.OpenRoot(stage.Path())
	if err != nil {
		return fmt.Errorf("sync layer: %w", err)
	}
	defer func() { _ = unix.Close(dir) }() // a directory
	done, err := syncFew(dir)
	switch {
	case err != nil:
		return fmt.Errorf("sync layer: %w", err)
	case done:
		return stage.SyncFiles() // the rest is
	}
	return stage.Sync()
}

// syncFew syncs all that is in the directory dir, if that are few files; done is false
// if they are not, and nothing was done.
func syncFew(dir int) (done bool, err error) {
	files, err := fewBelow(dir)
	if err != nil || files == nil {
		return false, err
	}
	for _, path := range files {
		if err := syncFile(dir, path); err != nil {
			return false, err
		}
	}
	return true, nil
}

// fewBelow lists the regular files and directories below dir, what is in a directory
// before it; nil if they are not few.
func fewBelow(dir int) ([]string, error) {
	files, queue := []string{}, []string{""}
	for seen := 0; len(queue) > 0; {
		path := queue[0]
		queue = queue[1:]
		list, err := readDirBelow(dir, path)
		if err != nil {
			return nil, err
		}
		if seen += len(list); seen > fewFiles {
			return nil, nil
		}
		files = append([]string{path}, files...)
		for _, e := range list {
			switch e.Type {
			case unix.DT_DIR:
				queue = append(queue, joinName(path, e.Name))
			case unix.DT_REG:
				files = append([]string{joinName(path, e.Name)}, files...)
			case unix.DT_UNKNOWN:
				return nil, nil
			}
		}
	}
	return files, nil
}

func readDirBelow(dir int, path string) ([]at.Dirent, error) {
	fd, err := at.Beneath(dir, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	return at.ReadDir(fd)
}

func syncFile(dir int, path string) error {
	fd, err := at.Beneath(dir, path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	err = unix.Fsync(fd)
	_ = unix.Close(fd) // read only
	if err != nil {
		return &os.PathError{Op: "fsync", Path: path, Err: err}
	}
	return nil
}

// largeFile is from how many bytes on a file is worth a system call of its own.
const largeFile = 256 << 10

// beginWriting has the kernel begin to write a large file to the disk, without waiting:
// else the disk has nothing to do until [SyncLayer], and then everybody waits for it. What
// goes wrong there SyncLayer is told of: the stage was open before.
func beginWriting(fd int, size int64) {
	if size >= largeFile {
		_ = unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
}
