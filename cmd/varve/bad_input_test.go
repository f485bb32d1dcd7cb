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

// TestCutShort cuts what import and load are given at every 64 KiB, plain and
// compressed. Each time they say so, and nothing is there that was not before.
func TestCutShort(t *testing.T) {
	testenv.FUSE(t)
	s := newShop(t, filepath.Join(testenv.Dir(t), "store"))
	dir := testenv.Dir(t)
	saved := filepath.Join(dir, "saved.tar")
	s.ok(t, "save", "-o", saved, "base:1")
	before := s.ok(t, "images", "-a", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}")
	for verb, whole := range map[string]string{"import": testenv.Busybox(t).Tar, "load": saved} {
		for _, how := range []string{"", "gzip", "zstd"} {
			t.Run(strings.TrimSpace(verb+" "+how), func(t *testing.T) {
				data, err := os.ReadFile(whole)
				require.NoError(t, err)
				end := len(data) - 20<<10 // a tar ends in nothing, which may be missing
				if how != "" {
					testenv.Program(t, how, how)
					data = []byte(runProgram(t, how, "-q", "-c", whole))
					end = len(data)
				}
				for at := 0; at < end; at += 64 << 10 {
					name := filepath.Join(dir, "short")
					require.NoError(t, os.WriteFile(name, data[:at], 0o600))
					out, code := s.run(t, map[string][]string{"import": {"import", name, "x:1"}, "load": {"load", "-i", name}}[verb]...)
					requireSentence(t, out, code, out)
					require.Equal(t, before, s.ok(t, "images", "-a", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"), "cut at %d", at)
				}
				left, err := os.ReadDir(filepath.Join(s.root, "tmp"))
				require.NoError(t, err)
				require.Empty(t, left)
			})
		}
	}
}

// TestReadOnlyStore: on a disk that is read-only, lists are as before, and what would
// write says what is wrong.
func TestReadOnlyStore(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	disk := filepath.Join(testenv.Dir(t), "disk")
	require.NoError(t, os.Mkdir(disk, 0o700))
	require.NoError(t, unix.Mount("varve-test", disk, "tmpfs", 0, "size=64m"))
	t.Cleanup(func() { testenv.Unmount(t, disk) })
	s := newShop(t, filepath.Join(disk, "store"))
	lists := [][]string{{"images", "--format", "{{.Repository}} {{.ID}} {{.Size}}"}, {"history", "--format", "{{.ID}} {{.Size}}", "base:1"}, {"inspect", "base:1"}, {"ps", "-a", "--format", "{{.Names}}"}}
	var before []string
	for _, args := range lists {
		before = append(before, s.ok(t, args...))
	}
	require.NoError(t, unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	for i, args := range lists {
		require.Equal(t, before[i], s.ok(t, args...), "varve %v", args)
	}
	for _, args := range [][]string{
		{"import", s.tar, "victim:1"}, {"load", "-i", s.archive}, {"commit", "stopped", "victim:2"}, {"tag", "base:1", "victim:3"},
		{"rmi", "-f", "base:1"}, {"rm", "stopped"}, {"system", "prune", "-f"},
	} {
		out, code := s.run(t, args...)
		requireSentence(t, out, code, strings.Join(args, " ")+": "+out)
		require.Contains(t, out, "read-only file system", "varve %v", args)
	}
}

// TestNoInodes: where no file can be made any more each verb says that there is no
// space, and all is there when there is room again.
func TestNoInodes(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	disk := filepath.Join(testenv.Dir(t), "disk")
	require.NoError(t, os.Mkdir(disk, 0o700))
	require.NoError(t, unix.Mount("varve-test", disk, "tmpfs", 0, "size=64m,nr_inodes=2000"))
	t.Cleanup(func() { testenv.Unmount(t, disk) })
	s := newShop(t, filepath.Join(disk, "store"))
	before := s.saved(t, "base:1")
	fillers := filepath.Join(disk, "fillers")
	require.NoError(t, os.Mkdir(fillers, 0o700))
	for _, free := range []uint64{60, 5, 0} {
		var st unix.Statfs_t
		for i := 0; ; i++ {
			require.NoError(t, unix.Statfs(disk, &st))
			if st.Ffree <= free {
				break
			}
			f, err := os.CreateTemp(fillers, "")
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
		for _, args := range [][]string{
			{"import", s.tar, "victim:1"}, {"load", "-i", s.archive}, {"commit", "stopped", "victim:2"}, {"tag", "base:1", "victim:3"},
		} {
			out, code := s.run(t, args...)
			requireSentence(t, out, code, strings.Join(args, " ")+": "+out)
			require.Contains(t, out, "no space left", "varve %v", args)
		}
	}
	require.NoError(t, os.RemoveAll(fillers))
	require.Equal(t, "base:1\n", s.names(t))
	require.Equal(t, before, s.saved(t, "base:1"))
	s.ok(t, "system", "check", "--deep")
	s.ok(t, "import", s.tar, "victim:1")
}
