package engine

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/unionfs"
)

// Export writes all that a container sees to w, as one tar. Nothing is mounted:
// the upper and the layers are read as one tree. It has to run [Inside].
func (e *Engine) Export(w io.Writer, name string) error {
	c, spec, err := e.container(name)
	if err != nil {
		return err
	}
	chain, err := e.Chain(spec.Layers)
	if err != nil {
		return err
	}
	ids, err := container.IDsOf(spec)
	if err != nil {
		return err
	}
	dir, done, err := e.openUpper(&spec, archive.Difference{Loose: true})
	if err != nil {
		return err
	}
	err = exportTree(w, append([]unionfs.Lower{{Path: dir}}, chain.Lowers...), ids)
	if err = errors.Join(err, done()); err != nil {
		return fmt.Errorf("export %s: %w", name, err)
	}
	e.NoteContainer(c.ID, "export", nil)
	return nil
}

func exportTree(w io.Writer, layers []unionfs.Lower, ids container.IDs) error {
	tree, err := unionfs.OpenTree(layers)
	if err != nil {
		return err
	}
	defer tree.Close()
	return archive.WriteTree(w, treeFiles(tree, ids))
}

// errStop ends a walk whose consumer wants no more.
var errStop = errors.New("stop")

// treeFiles are the files of a tree for an archive, in the order of its walk.
func treeFiles(tree *unionfs.Tree, ids container.IDs) iter.Seq2[archive.File, error] {
	return func(yield func(archive.File, error) bool) {
		err := tree.Walk(func(entry unionfs.Entry) error {
			f, err := treeFile(entry, ids)
			if err != nil {
				return err
			}
			if !yield(f, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(archive.File{}, err)
		}
	}
}

func treeFile(entry unionfs.Entry, ids container.IDs) (archive.File, error) {
	f := archive.File{
		Path: entry.Path, Stat: entry.Stat,
		Open: func() (io.ReadCloser, error) { return entry.Open() },
	}
	var err error
	if entry.Stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		if f.Link, err = entry.Readlink(); err != nil {
			return f, err
		}
	}
	if f.Xattrs, err = entry.Xattrs(); err != nil {
		return f, err
	}
	return f, showOwner(ids, &f)
}

// overflowID is what stat(2) calls an id that the user namespace does not have
// (the default of /proc/sys/kernel/overflowuid).
const overflowID = 65534

func showOwner(i container.IDs, f *archive.File) error {
	if i.Overflow && f.Stat.Uid == overflowID {
		f.Stat.Uid = 0
	}
	if i.Overflow && f.Stat.Gid == overflowID {
		f.Stat.Gid = 0
	}
	if i.Single {
		return f.Unsquash()
	}
	return nil
}
