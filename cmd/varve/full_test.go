package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// TestFullDisk leaves a store less and less room, from more than enough to nothing,
// so that each verb comes to the end at another moment. Each succeeds, or says that
// there is no space, and nothing that was there before is lost.
func TestFullDisk(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	disk := filepath.Join(testenv.Dir(t), "disk")
	require.NoError(t, os.Mkdir(disk, 0o700))
	require.NoError(t, unix.Mount("varve-test", disk, "tmpfs", 0, "size=32m"))
	t.Cleanup(func() { testenv.Unmount(t, disk) })
	s := newShop(t, filepath.Join(disk, "store"))
	big := smallTar(t, "big", 3_000_000)
	before := s.saved(t, "base:1")
	refused := 0
	for room := int64(9 << 20); room >= 0; room -= 768 << 10 {
		for _, args := range [][]string{
			{"import", big, "victim:1"}, {"load", "-i", s.archive}, {"commit", "stopped", "victim:2"},
			{"tag", "base:1", "victim:3"}, {"rmi", "victim:1"},
		} {
			leave(t, disk, room)
			out, code := s.run(t, args...)
			if code != 0 {
				refused++
				require.Equal(t, 1, code, "%d bytes free, varve %v: %s", room, args, out)
				if args[0] != "rmi" || !strings.Contains(out, "No such image") {
					require.Contains(t, out, "no space left", "%d bytes free, varve %v", room, args)
				}
			}
			require.Equal(t, before, s.saved(t, "base:1"))
		}
		require.NoError(t, os.Remove(filepath.Join(disk, "filler")))
		(&killer{shop: s}).clear(t)
	}
	require.NotZero(t, refused, "the disk was never full")
	s.ok(t, "import", big, "after:1")
	s.ok(t, "load", "-i", s.archive)
	left, err := os.ReadDir(filepath.Join(s.root, "tmp"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// leave fills a file system but for room bytes.
func leave(t *testing.T, disk string, room int64) {
	t.Helper()
	name := filepath.Join(disk, "filler")
	require.NoError(t, os.WriteFile(name, nil, 0o600))
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(disk, &st))
	size := int64(st.Bavail)*st.Bsize - room
	if size <= 0 {
		return
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Fallocate(int(f.Fd()), 0, 0, size))
	require.NoError(t, f.Close())
}
