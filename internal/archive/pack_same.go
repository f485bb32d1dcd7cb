package archive

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// inChain tells whether the layers below the upper have the same file at path as base
// in dir is: of the same type, with the same attributes and data. For a directory
// the data is another matter.
func (p *packer) inChain(dir int, base, path string) (bool, error) {
	lower, ok, err := p.below(path)
	if err != nil || !ok && p.placeholder == nil {
		return false, err
	}
	var st unix.Stat_t
	if err := at.Stat(dir, base, &st); err != nil {
		return false, err
	}
	if !ok {
		return p.placeholder(path, &st), nil
	}
	a, err := p.owners.attrsOf(dir, base, st.Mode&unix.S_IFMT)
	if err != nil {
		return false, err
	}
	kind, _ := a.kind(&st)
	if kind != lower.Stat.Mode&unix.S_IFMT || !a.equal(lower.attrs()) {
		return false, nil
	}
	if kind == unix.S_IFDIR {
		return true, nil
	}
	if st.Nlink != 1 || lower.Stat.Nlink != 1 {
		return false, nil
	}
	switch kind {
	case unix.S_IFLNK:
		target, err := a.readlink(dir, base)
		return target == lower.Link, err
	case unix.S_IFREG:
		if st.Size != lower.Stat.Size {
			return false, nil
		}
		return sameData(dir, base, &lower, p.buf, hasData)
	case unix.S_IFIFO:
		return true, nil
	}
	return false, nil
}

func (a *attrs) equal(b *attrs) bool {
	return a.uid == b.uid && a.gid == b.gid && a.mode == b.mode && a.mtime == b.mtime && maps.Equal(a.xattrs, b.xattrs)
}

// sameData compares the bytes of a regular file, which check may refuse, with those of one
// below of its size. buf is scratch.
func sameData(dir int, base string, lower *File, buf []byte, check func(fd int) error) (same bool, err error) {
	if lower.Stat.Size == 0 {
		return true, nil
	}
	fd, err := at.Open(dir, base, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	upper := os.NewFile(uintptr(fd), base)
	defer func() { _ = upper.Close() }() // read only
	if err := check(fd); err != nil {
		return false, err
	}
	other, err := lower.Open()
	if err != nil {
		return false, err
	}
	defer func() { _ = other.Close() }() // read only
	mine, theirs := buf[:len(buf)/2], buf[len(buf)/2:]
	for {
		n, err := io.ReadFull(upper, mine)
		m, theirErr := io.ReadFull(other, theirs)
		if n != m || !bytes.Equal(mine[:n], theirs[:m]) {
			return false, nil
		}
		if ended(err) && ended(theirErr) {
			return true, nil
		}
		if err := errors.Join(err, theirErr); err != nil {
			return false, err
		}
	}
}

// ended tells whether a read came to the end of a file.
func ended(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }
