package unionfs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/whiteout"
)

// manyLayers is as many as overlayfs takes.
const manyLayers = 500

// fillManyLayers gives each layer a file of its own, and one that all have; a
// directory that all have, and one that begins anew in layer 250. What is hidden is
// hidden in layer 100, and is there again from layer 50 on.
func fillManyLayers(t *testing.T, lowers []string) {
	write := func(k int, name string) {
		require.NoError(t, os.WriteFile(filepath.Join(lowers[k], name), fmt.Appendf(nil, "%s of %d", name, k), 0o644))
	}
	for k, root := range lowers {
		mkdir(t, root, "dir/sub")
		mkdir(t, root, "opaque")
		write(k, "all")
		for _, dir := range []string{"dir", "dir/sub", "opaque"} {
			write(k, fmt.Sprintf("%s/f%d", dir, k))
		}
		if k > 100 || k <= 50 {
			write(k, "hidden")
		}
		if k > 100 {
			write(k, "gone")
			mkdir(t, root, "gonedir")
			write(k, fmt.Sprintf("gonedir/f%d", k))
		}
	}
	require.NoError(t, unix.Mknod(filepath.Join(lowers[100], "hidden"), unix.S_IFCHR, 0))
	require.NoError(t, os.WriteFile(filepath.Join(lowers[100], whiteout.Prefix+"gone"), nil, 0o644))
	require.NoError(t, unix.Mknod(filepath.Join(lowers[100], "gonedir"), unix.S_IFCHR, 0))
	require.NoError(t, os.WriteFile(filepath.Join(lowers[250], "opaque", whiteout.OpaqueName), nil, 0o644))
}

// TestManyLayers: 500 layers with whiteouts, opaque directories and names that all of
// them have are what applying one after the other gives, with an index and without;
// and what is changed over them is found again after a remount.
func TestManyLayers(t *testing.T) {
	testenv.Root(t)
	w := newWorld(t, manyLayers)
	fillManyLayers(t, w.lowers)
	want := model(t, w.lowers)
	require.Equal(t, "file 100644 all of 0", want["all"])
	require.Equal(t, "file 100644 hidden of 0", want["hidden"])
	require.NotContains(t, want, "gone")
	require.NotContains(t, want, "opaque/f251")
	require.Contains(t, want, "dir/sub/f499")
	for _, indexed := range []bool{false, true} {
		t.Run(map[bool]string{false: "merged as needed", true: "index"}[indexed], func(t *testing.T) {
			testenv.CheckLeaks(t)
			opt := w.options()
			opt.Upper, opt.Work = t.TempDir(), t.TempDir()
			opt.Whiteout = whiteout.Overlay
			if indexed {
				indexLayers(t, &opt, filepath.Join(t.TempDir(), "index"))
			}
			w.mount(t, opt)
			require.Equal(t, want, shownBy(t, w.mnt))
			changeManyLayers(t, w.mnt)
			changed := shownBy(t, w.mnt)
			w.unmount(t)
			w.mount(t, opt)
			require.Equal(t, changed, shownBy(t, w.mnt))
			require.Equal(t, changedLayers(want), changed)
			w.unmount(t)
		})
	}
}

// shownBy is the tree of a mounted view, as model describes it.
func shownBy(t *testing.T, mnt string) map[string]string {
	t.Helper()
	tree, err := OpenTree([]Lower{{Path: mnt}})
	require.NoError(t, err)
	defer tree.Close()
	return walked(t, tree)
}

// changeManyLayers brings a file of the lowest layer up, removes one that all have,
// moves the directory that all have, and empties the one that begins anew.
func changeManyLayers(t *testing.T, mnt string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(mnt, name) }
	require.NoError(t, appendTo(in("dir/f499"), "+"))
	require.NoError(t, os.Remove(in("all")))
	require.NoError(t, os.Rename(in("dir"), in("gone")))
	require.NoError(t, os.Rename(in("gone/sub/f250"), in("hidden")))
	require.NoError(t, os.RemoveAll(in("opaque")))
	require.NoError(t, os.Mkdir(in("opaque"), 0o700))
}

// changedLayers does to the model what changeManyLayers does to the view.
func changedLayers(have map[string]string) map[string]string {
	changed := map[string]string{"gone": have["dir"], "gone/sub": have["dir/sub"], "hidden": have["dir/sub/f250"], "opaque": "dir 40700"}
	for k := range manyLayers {
		changed[fmt.Sprintf("gone/f%d", k)] = have[fmt.Sprintf("dir/f%d", k)]
		changed[fmt.Sprintf("gone/sub/f%d", k)] = have[fmt.Sprintf("dir/sub/f%d", k)]
	}
	changed["gone/f499"] += "+"
	delete(changed, "gone/sub/f250")
	return changed
}
