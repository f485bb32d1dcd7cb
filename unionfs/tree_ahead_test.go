package unionfs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestReadAhead walks two levels of a tree, and sees that the third is read without
// being asked for; but neither the first directory of it, nor all of a tree to count
// the names of a file, nor anything of a running machine.
func TestReadAhead(t *testing.T) {
	for _, live := range []bool{false, true} {
		t.Run(fmt.Sprint("live ", live), func(t *testing.T) {
			w := newWorld(t, 2)
			for _, dir := range []string{"top/a", "top/b", "top/c", "other"} {
				path := filepath.Join(w.lowers[1], dir)
				require.NoError(t, os.MkdirAll(path, 0o755))
				require.NoError(t, os.WriteFile(filepath.Join(path, "file"), nil, 0o644))
			}
			require.NoError(t, os.Link(filepath.Join(w.lowers[1], "top/c/file"), filepath.Join(w.lowers[1], "top/c/link")))
			tree, err := OpenTree([]Lower{{Path: w.lowers[0]}, {Path: w.lowers[1], Live: live}})
			require.NoError(t, err)
			defer tree.Close()
			find := func(path string) *inode {
				n, ok, err := lowerDirOf(tree, path)
				require.NoError(t, err)
				require.True(t, ok)
				return tree.inode(n)
			}
			top, _, err := lowerDirOf(tree, "top")
			require.NoError(t, err)
			a, b, c := find("top/a"), find("top/b"), find("top/c")
			tree.listing(top)
			require.Nil(t, tree.next.dirs, "one directory is no walk")
			for _, n := range []Inum{0, top} {
				tree.inode(n).dir.Load().listed.Store(false)
				tree.listing(n)
			}
			if live {
				require.Nil(t, tree.next.dirs)
				return
			}
			require.Eventually(t, func() bool { return c.dir.Load() != nil }, 10*time.Second, time.Millisecond)
			tree.next.stop()
			require.Nil(t, a.dir.Load(), "the program is about to read it itself")
			require.NotNil(t, tree.inode(b.dir.Load().names[0].inum).stat.Load())
			for _, e := range c.dir.Load().names {
				require.Nil(t, tree.inode(e.inum).stat.Load(), "its other names would have to be searched for")
			}
			require.Nil(t, find("other").dir.Load())
		})
	}
}
