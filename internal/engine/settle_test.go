package engine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/layerdb"
	"github.com/varvefs/varve/unionfs"
)

// copied is a container in a store of its own that stands on a copy, which a program has
// changed.
func copied(t *testing.T) (e *Engine, spec *container.Spec, dir string) {
	t.Helper()
	return copiedIn(t, filepath.Join(t.TempDir(), "store"))
}

func copiedIn(t *testing.T, root string) (e *Engine, spec *container.Spec, dir string) {
	t.Helper()
	e, err := Open(root)
	require.NoError(t, err)
	spec = &container.Spec{ID: container.NewID(), Layers: []string{"sha256:" + strings.Repeat("a", 64)}}
	layer, err := e.DiffDir(spec.Layers[0])
	require.NoError(t, err)
	dir = e.store.ContainerDir(spec.ID)
	for _, d := range []string{layer + "/d", filepath.Join(dir, container.UpperName), filepath.Join(dir, container.ViewName)} {
		require.NoError(t, os.MkdirAll(d, 0o755))
	}
	for path, text := range map[string]string{
		layer + "/d/kept": "k", layer + "/d/gone": "g", filepath.Join(dir, container.UpperName, "old"): "o",
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	raw, err := json.Marshal(spec)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, container.ConfigName), raw, 0o600))
	require.NoError(t, e.Replicate(spec.ID, "no", func(string) {}))
	here := filepath.Join(dir, container.CopyName)
	require.NoError(t, os.Remove(here+"/d/gone"))
	require.NoError(t, os.Rename(here+"/old", here+"/new"))
	require.NoError(t, os.WriteFile(here+"/d/more", []byte("m"), 0o600))
	return e, spec, dir
}

// TestSettle: the upper has all of the copy, wherever the last try was interrupted, and
// nothing but the upper is left.
func TestSettle(t *testing.T) {
	for name, interrupt := range map[string]func(t *testing.T, e *Engine, spec *container.Spec, dir string){
		"never": func(*testing.T, *Engine, *container.Spec, string) {},
		"while a copy was made": func(t *testing.T, _ *Engine, _ *container.Spec, dir string) {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, container.UnripeName, "part"), 0o755))
		},
		"while the upper was made": func(t *testing.T, _ *Engine, _ *container.Spec, dir string) {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, container.NewUpperName, "part"), 0o755))
		},
		"while the old one was removed": func(t *testing.T, _ *Engine, _ *container.Spec, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, container.UpperName, "old")))
		},
		"when there was none": func(t *testing.T, e *Engine, spec *container.Spec, dir string) {
			require.NoError(t, os.Mkdir(filepath.Join(dir, container.NewUpperName), 0o755))
			require.NoError(t, e.difference(spec, filepath.Join(dir, container.NewUpperName), archive.Difference{Link: true}))
			require.NoError(t, os.RemoveAll(filepath.Join(dir, container.UpperName)))
		},
		"when the new one had its name": func(t *testing.T, e *Engine, spec *container.Spec, dir string) {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, container.UpperName)))
			require.NoError(t, os.Mkdir(filepath.Join(dir, container.UpperName), 0o755))
			require.NoError(t, e.difference(spec, filepath.Join(dir, container.UpperName), archive.Difference{Link: true}))
		},
		"while the copy was removed": func(t *testing.T, e *Engine, spec *container.Spec, dir string) {
			require.NoError(t, e.settle(spec))
			require.NoError(t, os.Mkdir(filepath.Join(dir, container.SpentName), 0o755))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, spec, dir := copied(t)
			want, err := shownBy(filepath.Join(dir, container.CopyName))
			require.NoError(t, err)
			interrupt(t, e, spec, dir)
			require.NoError(t, e.settle(spec))
			chain, err := e.Chain(spec.Layers)
			require.NoError(t, err)
			got, err := shownThrough(append([]unionfs.Lower{{Path: e.upper(spec.ID)}}, chain.Lowers...))
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.Contains(t, got, "d/more")
			list, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, list, 3, "upper, view and configuration: %v", list)
			var names []string
			upper, err := os.ReadDir(e.upper(spec.ID))
			require.NoError(t, err)
			for _, entry := range upper {
				names = append(names, entry.Name())
			}
			require.Equal(t, []string{"d", "new"}, names)
		})
	}
}

// TestCopyLeavesNothing: a copy for which there is no room, or that can not be finished, is
// not there.
func TestCopyLeavesNothing(t *testing.T) {
	e, spec, dir := copied(t)
	require.NoError(t, e.settle(spec))
	// A file whose data is in a layer that is not there can not be read.
	require.NoError(t, os.Truncate(filepath.Join(dir, container.UpperName, "new"), 9))
	require.NoError(t, unix.Setxattr(filepath.Join(dir, container.UpperName, "new"), "user.overlay.metacopy", nil, 0))
	require.ErrorIs(t, e.Replicate(spec.ID, "no", func(string) {}), unix.EIO)
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, list, 3, "upper, view and configuration: %v", list)

	if shares, err := canShare(dir); err != nil || shares {
		t.Skip("files share their data here: there is room for any copy")
	}
	require.NoError(t, checkRoom(dir, archive.TreeSize{Bytes: 1, Files: 1}))
	require.ErrorIs(t, checkRoom(dir, archive.TreeSize{Bytes: 1 << 60}), layerdb.ErrNoSpace)
	require.ErrorIs(t, checkRoom(dir, archive.TreeSize{Files: 1 << 60}), layerdb.ErrNoSpace)
}

// TestSettleOnFullDisk: where the upper can not be made, the copy stays, and the upper is made
// when there is room.
func TestSettleOnFullDisk(t *testing.T) {
	testenv.Root(t)
	disk := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", disk, "tmpfs", 0, ""))
	defer func() { require.NoError(t, unix.Unmount(disk, unix.MNT_DETACH)) }()
	e, spec, dir := copiedIn(t, filepath.Join(disk, "store"))
	want, err := shownBy(filepath.Join(dir, container.CopyName))
	require.NoError(t, err)
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(disk, &st))
	room := func(inodes uint64) {
		options := fmt.Sprintf("nr_inodes=%d", st.Files-st.Ffree+inodes)
		require.NoError(t, unix.Mount("", disk, "", unix.MS_REMOUNT, options))
	}
	for inodes := range uint64(6) { // upper.new, what tries a whiteout, d, a whiteout, two links
		room(inodes)
		if err = e.settle(spec); err == nil {
			break
		}
		require.ErrorIs(t, err, unix.ENOSPC)
		require.DirExists(t, filepath.Join(dir, container.CopyName))
	}
	if err != nil {
		room(100)
		require.NoError(t, e.settle(spec))
	}
	chain, err := e.Chain(spec.Layers)
	require.NoError(t, err)
	got, err := shownThrough(append([]unionfs.Lower{{Path: e.upper(spec.ID)}}, chain.Lowers...))
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoDirExists(t, filepath.Join(dir, container.CopyName))
}
