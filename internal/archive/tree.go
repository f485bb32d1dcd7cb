package archive

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"golang.org/x/sys/unix"
)

// File is one file for [WriteTree].
type File struct {
	// Path is relative and clean, "a/b"; "" is the root.
	Path string
	// Stat is the file as a view shows it, so with its true owner, mode and device.
	Stat unix.Stat_t
	// Link is what a symbolic link says.
	Link string
	// Xattrs may be nil. Attributes of the union and of the host are left out.
	Xattrs map[string][]byte
	// Open opens a regular file that is not empty; WriteTree closes it.
	Open func() (io.ReadCloser, error)
}

// WriteTree writes files, directories before what is in them, as one PAX tar to
// w. Files with several names are written once and linked: a file is the same as
// an earlier one if device, inode number and type are, and its Nlink is above 1.
// Sockets are left out. It stops at the first error that files yields.
func WriteTree(w io.Writer, files iter.Seq2[File, error]) error {
	out := bufio.NewWriterSize(w, chunkSize)
	t := &treeWriter{tar: tar.NewWriter(out), links: map[inode]string{}, buf: make([]byte, chunkSize)}
	for file, err := range files {
		if err != nil {
			return err
		}
		if err := t.file(&file); err != nil {
			return fmt.Errorf("write %s: %w", quote("/"+file.Path), err)
		}
	}
	if err := errors.Join(t.tar.Close(), out.Flush()); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	return nil
}

type treeWriter struct {
	tar   *tar.Writer
	links map[inode]string
	buf   []byte
}

// attrs are what belongs to the file beside its name and data.
func (f *File) attrs() *attrs {
	a := &attrs{uid: int(f.Stat.Uid), gid: int(f.Stat.Gid), mode: f.Stat.Mode & 0o7777, mtime: f.Stat.Mtim, xattrs: map[string]string{}}
	for attr, value := range f.Xattrs {
		if storable(attr) && !slices.Contains(hostAttrs, attr) {
			a.xattrs[attr] = string(value)
		}
	}
	return a
}

func (t *treeWriter) file(f *File) error {
	name, err := cleanName(f.Path)
	if err != nil {
		return err
	}
	if name == "" {
		name = "."
	}
	h := f.attrs().header(name)
	kind := f.Stat.Mode & unix.S_IFMT
	switch kind {
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return t.tar.WriteHeader(h)
	}
	if f.Stat.Nlink > 1 {
		id := inode{f.Stat.Dev, f.Stat.Ino}
		if first, seen := t.links[id]; seen {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return t.tar.WriteHeader(h)
		}
		t.links[id] = name
	}
	switch kind {
	case unix.S_IFREG:
		return t.regular(f, h)
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
	default:
		describeNode(h, kind, f.Stat.Rdev)
	}
	return t.tar.WriteHeader(h)
}

// regular writes as many bytes as the header says: a file that grows meanwhile is
// cut there, one that shrinks is an error.
func (t *treeWriter) regular(f *File, h *tar.Header) (err error) {
	h.Size = f.Stat.Size
	if h.Size == 0 {
		return t.tar.WriteHeader(h)
	}
	file, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := t.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyBuffer(onlyWriter{t.tar}, io.LimitReader(file, h.Size), t.buf)
	if err != nil {
		return err
	}
	if n != h.Size {
		return fmt.Errorf("it shrank from %d to %d bytes while it was read: %w", h.Size, n, io.ErrUnexpectedEOF)
	}
	return nil
}

// onlyWriter keeps io.CopyBuffer from tar.Writer's ReadFrom, which would not use
// the buffer.
type onlyWriter struct{ io.Writer }
