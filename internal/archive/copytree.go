package archive

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/copyup"
	"github.com/varvefs/varve/internal/at"
)

// TreeSize is what a copy of a tree needs.
type TreeSize struct {
	Bytes int64 // of the blocks of its files
	Files int64 // of all kinds, several names of one counted once
}

// MeasureTree adds up files. It stops at the first error that they yield.
func MeasureTree(files iter.Seq2[File, error]) (size TreeSize, err error) {
	seen := map[inode]bool{}
	for file, err := range files {
		if err != nil {
			return size, err
		}
		id := inode{file.Stat.Dev, file.Stat.Ino}
		if file.several() && seen[id] {
			continue
		}
		seen[id] = file.several()
		size.Files++
		size.Bytes += file.Stat.Blocks * 512
	}
	return size, nil
}

// several tells whether a file has more names than one.
func (f *File) several() bool {
	return f.Stat.Nlink > 1 && f.Stat.Mode&unix.S_IFMT != unix.S_IFDIR
}

// CopyTree copies files, which come as they are on the disk and a directory before what is
// in it, to the existing empty directory at the path dir: as shared copies (FICLONE) where
// the file system can, else byte by byte, with holes, attributes, times, and the names of a
// file together. Nothing is linked: a program that writes to a file of the copy writes to
// nothing else. What stands for a link, FIFO or socket is one in the copy, its maker's. After an
// error what was made is the caller's to remove.
func CopyTree(files iter.Seq2[File, error], dir string) error {
	root, err := at.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("copy the files: %w", err)
	}
	c := &treeCopier{owners: newOwners(), root: root, parent: -1, links: map[inode]string{}}
	defer c.close()
	for file, err := range files {
		if err != nil {
			return err
		}
		if err := c.file(&file); err != nil {
			return fmt.Errorf("copy %s: %w", quote("/"+file.Path), err)
		}
	}
	return c.dressDirs()
}

type treeCopier struct {
	owners
	root   int
	parent int // the directory at the path within; -1 when none is open
	within string
	dirs   []File // to be dressed when all is in them
	links  map[inode]string
}

func (c *treeCopier) close() {
	for _, fd := range []int{c.root, c.parent} {
		if fd >= 0 {
			_ = unix.Close(fd) // directories, read only
		}
	}
}

// enter opens the directory at path.
func (c *treeCopier) enter(path string) (err error) {
	if c.parent >= 0 && c.within == path {
		return nil
	}
	if c.parent >= 0 {
		_ = unix.Close(c.parent) // read only
	}
	c.within = path
	c.parent, err = at.Beneath(c.root, path, unix.O_RDONLY|unix.O_DIRECTORY)
	return err
}

func (c *treeCopier) file(f *File) error {
	if err := c.asCopied(f); err != nil {
		return err
	}
	kind := f.Stat.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		c.dirs = append(c.dirs, *f)
		if f.Path == "" {
			return nil
		}
	}
	parent, base := splitName(f.Path)
	if err := c.enter(parent); err != nil {
		return err
	}
	if kind == unix.S_IFDIR {
		return at.Mkdir(c.parent, base, 0o700)
	}
	if f.several() {
		id := inode{f.Stat.Dev, f.Stat.Ino}
		if first, seen := c.links[id]; seen {
			return linkWithin(c.root, first, c.parent, base)
		}
		c.links[id] = f.Path
	}
	if err := c.make(f, kind, base); err != nil {
		return err
	}
	a, err := c.attrsFrom(&f.Stat, f.Xattrs)
	if err != nil {
		return err
	}
	return c.dress(c.parent, base, kind, a)
}

func (c *treeCopier) make(f *File, kind uint32, base string) error {
	switch kind {
	case unix.S_IFREG:
		return c.regular(f, base)
	case unix.S_IFLNK:
		return at.Symlink(f.Link, c.parent, base)
	}
	return at.Mknod(c.parent, base, kind|0o600, f.Stat.Rdev)
}

func (c *treeCopier) regular(f *File, base string) error {
	out, err := at.Open(c.parent, base, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil || f.Stat.Size == 0 {
		return errors.Join(err, closeMade(out))
	}
	in, err := f.Open()
	if err == nil {
		err = copyOpened(in, out)
	}
	return errors.Join(err, closeMade(out))
}

// copyOpened copies a file to the empty one behind out, and closes it.
func copyOpened(in io.ReadCloser, out int) error {
	defer func() { _ = in.Close() }() // only read
	file, ok := in.(*os.File)
	if !ok {
		return errors.New("it is no file of a file system")
	}
	return copyup.Data(int(file.Fd()), out)
}

func closeMade(fd int) error {
	if fd < 0 {
		return nil
	}
	return closeWritten(fd)
}

// dressDirs gives the directories their attributes, the innermost first.
func (c *treeCopier) dressDirs() error {
	for _, f := range slices.Backward(c.dirs) {
		if err := c.dressDir(&f); err != nil {
			return fmt.Errorf("copy %s: %w", quote("/"+f.Path), err)
		}
	}
	return nil
}

func (c *treeCopier) dressDir(f *File) error {
	fd, err := at.Beneath(c.root, f.Path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	a, err := c.attrsFrom(&f.Stat, f.Xattrs)
	if err != nil {
		return err
	}
	return c.dress(fd, "", unix.S_IFDIR, a)
}

// linkWithin gives the file at the path first below root one more name.
func linkWithin(root int, first string, dst int, base string) error {
	parent, name := splitName(first)
	dir, err := at.Beneath(root, parent, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dir) }() // O_PATH
	return at.Link(dir, name, dst, base)
}
