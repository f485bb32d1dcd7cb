package engine

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/runner"
	"github.com/varvefs/varve/unionfs"
)

// Export writes all that a container sees to w, as one tar. Nothing is mounted:
// the upper and the layers are read as one tree. It has to run [Inside].
func (e *Engine) Export(w io.Writer, name string) error {
	c, spec, err := e.container(name)
	if err != nil {
		return err
	}
	chain, err := e.chain(spec.Layers)
	if err != nil {
		return err
	}
	ids, err := idsOf(spec)
	if err != nil {
		return err
	}
	dir, done, err := e.openUpper(&spec, archive.Difference{Loose: true})
	if err != nil {
		return err
	}
	err = exportTree(w, append([]unionfs.Lower{{Path: dir}}, chain.lowers...), ids)
	if err = errors.Join(err, done()); err != nil {
		return fmt.Errorf("export %s: %w", name, err)
	}
	e.noteContainer(c.ID, "export", nil)
	return nil
}

func exportTree(w io.Writer, layers []unionfs.Lower, ids ids) error {
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
func treeFiles(tree *unionfs.Tree, ids ids) iter.Seq2[archive.File, error] {
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

func treeFile(entry unionfs.Entry, ids ids) (archive.File, error) {
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
	return f, ids.show(&f)
}

// ids says how the owners of files are shown, in a view and in an export.
type ids struct {
	single bool // true owners are kept in an attribute
	// overflow has files of nobody we know shown as root's, since programs ask:
	// in a single-id namespace, and where this machine's files are seen by an
	// ordinary user.
	overflow bool
}

// idsOf is how this process shows the files of a container.
func idsOf(spec Spec) (ids, error) {
	ns, err := runner.CurrentUserns()
	if err != nil || ns == nil {
		return ids{}, err
	}
	return ids{single: ns.Single, overflow: ns.Single || slices.Contains(spec.Layers, hostLayer)}, nil
}

// overflowID is what stat(2) calls an id that the user namespace does not have
// (the default of /proc/sys/kernel/overflowuid).
const overflowID = 65534

func (i ids) show(f *archive.File) error {
	if i.overflow && f.Stat.Uid == overflowID {
		f.Stat.Uid = 0
	}
	if i.overflow && f.Stat.Gid == overflowID {
		f.Stat.Gid = 0
	}
	if i.single {
		return f.Unsquash()
	}
	return nil
}
