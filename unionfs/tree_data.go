package unionfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/whiteout"
)

// A file of a layer may have only its metadata there, and the data in a layer below
// (whiteout.FileMarks). Which one does is only asked for when its data is opened,
// and for the space it takes, if it looks as if it had none.

// data returns fd, which was opened as the file n, if that has data of its own, and
// else closes it and opens the data.
func (t *Tree) data(n Inum, fd int) (int, error) {
	meta, err := whiteout.IsMetacopy(fd)
	if err == nil && !meta {
		return fd, nil
	}
	_ = unix.Close(fd) // read only
	if err != nil {
		return -1, err
	}
	fd, _, err = t.openData(n)
	if err != nil {
		return -1, err
	}
	return checkData(t, n, fd)
}

// checkData returns fd, which was opened as the data of the file n, if it has as many
// bytes as the file. If not it closes it, and says EIO: what is missing would be read
// as zeros.
func checkData(t lowers, n Inum, fd int) (int, error) {
	var data, meta unix.Stat_t
	err := unix.Fstat(fd, &data)
	if err == nil {
		err = t.stat(n, &meta)
	}
	if err == nil && data.Size != meta.Size {
		err = fmt.Errorf("open %q: the layer below has %d bytes of data for a file of %d: %w", t.path(n), data.Size, meta.Size, unix.EIO)
	}
	if err != nil {
		_ = unix.Close(fd) // read only
		return -1, err
	}
	return fd, nil
}

// openData also tells how many blocks the data takes.
func (t *Tree) openData(n Inum) (fd int, blocks int64, err error) {
	i := t.inode(n)
	_, fd, err = whiteout.OpenData(t.roots, t.partsFrom(i.parent, i.layers[0]), i.name)
	if err != nil {
		return -1, 0, fmt.Errorf("open %q: %w", t.path(n), stale(err))
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd) // read only
		return -1, 0, err
	}
	return fd, st.Blocks, nil
}

// countBlocks gives st, which the layer has of n, the blocks of the data if that is
// in another layer.
func (t *Tree) countBlocks(n Inum, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Blocks*512 >= st.Size {
		return nil
	}
	var marks whiteout.FileMarks
	err := t.at(n, func(dir int, name string) (err error) {
		marks, err = whiteout.ReadFileMarks(dir, name)
		return err
	})
	if err != nil || !marks.Metacopy {
		return err
	}
	fd, blocks, err := t.openData(n)
	if errors.Is(err, unix.EIO) {
		return nil // who reads it is told
	}
	if err != nil {
		return err
	}
	st.Blocks = blocks
	_ = unix.Close(fd) // read only
	return nil
}
