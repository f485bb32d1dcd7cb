package index_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/varvefs/varve/internal/index"
)

// TestExtendIsBuild: over random layers, an index that is made from that of the layers
// below has the same bytes as one that is made from the directories.
func TestExtendIsBuild(t *testing.T) {
	extended := 0
	rapid.Check(t, func(rt *rapid.T) {
		base, err := os.MkdirTemp(t.TempDir(), "")
		require.NoError(rt, err)
		defer os.RemoveAll(base)
		list, _ := described(randomLayers(rt, base, 3))
		below, whole, made := base+"/below", base+"/whole", base+"/made"
		require.NoError(rt, index.Build(below, list[1:]))
		require.NoError(rt, index.Build(whole, list))
		err = index.Extend(made, below, list)
		if errors.Is(err, index.ErrNoBase) {
			require.NoFileExists(rt, made)
			return
		}
		require.NoError(rt, err)
		extended++
		require.Equal(rt, lasting(rt, whole), lasting(rt, made))
	})
	require.Positive(t, extended, "every top layer had a redirect or a metacopy")
}

// lasting is the bytes of an index but for the access times and what depends on them:
// to read a symbolic link changes its own.
func lasting(t require.TestingT, path string) []byte {
	const header, inode, checksum, atime = 128, 64, 12, 32
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	clear(data[checksum : checksum+4])
	for n := range int(binary.LittleEndian.Uint32(data[24:])) {
		clear(data[header+n*inode+atime:][:8])
	}
	return data
}

// TestExtendReadsOnlyTheTop: the layers below need not even have their files any more.
func TestExtendReadsOnlyTheTop(t *testing.T) {
	list, below := twoLayers(t)
	require.NoError(t, os.RemoveAll(filepath.Join(list[1].Path, "dir")))
	made := below + "-made"
	require.NoError(t, index.Extend(made, below, list))
	x, err := index.Open(made, []string{"top", "low"})
	require.NoError(t, err)
	defer x.Close()
	dir, ok := x.Lookup(0, "dir")
	require.True(t, ok)
	_, ok = x.Lookup(dir, "file")
	require.True(t, ok)
}

// twoLayers makes two layers and the index of the lower one.
func twoLayers(t *testing.T) (list []index.Layer, below string) {
	base := t.TempDir()
	for _, name := range []string{"top", "low"} {
		list = append(list, index.Layer{Path: filepath.Join(base, name), ID: name})
		require.NoError(t, os.MkdirAll(filepath.Join(base, name, "dir"), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(base, "low/dir/file"), nil, 0o644))
	below = filepath.Join(base, "below")
	require.NoError(t, index.Build(below, list[1:]))
	return list, below
}

func TestExtendRefuses(t *testing.T) {
	list, below := twoLayers(t)
	made := below + "-made"
	require.ErrorIs(t, index.Extend(made, below+"-absent", list), index.ErrNoBase)
	require.ErrorIs(t, index.Extend(made, below, list[1:]), index.ErrNoBase)
	other := []index.Layer{list[0], {Path: list[1].Path, ID: "another"}}
	require.ErrorIs(t, index.Extend(made, below, other), index.ErrNoBase)
	require.NoError(t, os.Mkdir(below+"-copy", 0o755))
	copied := []index.Layer{list[0], {Path: below + "-copy", ID: "low"}}
	require.ErrorIs(t, index.Extend(made, below, copied), index.ErrNoBase)
	moved := filepath.Join(list[0].Path, "moved")
	require.NoError(t, os.Mkdir(moved, 0o755))
	if err := unix.Setxattr(moved, "user.overlay.redirect", []byte("dir"), 0); err == nil {
		require.ErrorIs(t, index.Extend(made, below, list), index.ErrNoBase)
	}
	require.NoFileExists(t, made)
}
