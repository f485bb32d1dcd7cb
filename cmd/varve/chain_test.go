package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/testenv"
)

// eachIndexed runs the test as those whose chains have indexes.
func eachIndexed(t *testing.T, test func(*testing.T, *home)) {
	eachUser(t, func(t *testing.T, h *home) {
		if h.user != nil && !h.user.Ranged {
			t.Skip("where owners are kept in attributes there are no indexes: TestSingleIDHasNoIndex")
		}
		test(t, h)
	})
}

// indexes are the files in chains/.
func (h *home) indexes(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(h.root, "chains/*"))
	require.NoError(t, err)
	return list
}

// index is the only one.
func (h *home) index(t *testing.T) string {
	t.Helper()
	list := h.indexes(t)
	require.Len(t, list, 1)
	require.Equal(t, ".idx", filepath.Ext(list[0]))
	return list[0]
}

// uses runs a container of the image and tells whether its supervisor has an index
// in memory.
func (h *home) uses(t *testing.T, image string) bool {
	t.Helper()
	cmd := h.command(t.Context(), "run", "--rm", "-i", image, "sh", "-c", "test -x /bin/sh && test ! -e /absent && echo fine; cat")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	line := make([]byte, len("fine\n"))
	_, err = io.ReadFull(stdout, line)
	require.NoError(t, err)
	require.Equal(t, "fine\n", string(line))
	id := ""
	testenv.Eventually(t, "the container is known to run", func() bool {
		id = strings.TrimSpace(h.ok(t, "ps", "-q", "--no-trunc"))
		return id != ""
	})
	raw, err := os.ReadFile(filepath.Join(h.root, "containers", id, "state.json"))
	require.NoError(t, err)
	var state container.State
	require.NoError(t, json.Unmarshal(raw, &state))
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", state.Supervisor.Pid))
	require.NoError(t, err)
	require.NoError(t, stdin.Close())
	require.NoError(t, cmd.Wait())
	return strings.Contains(string(maps), "/chains/")
}

// remade waits until the index at path is another file than before, and whole.
func (h *home) remade(t *testing.T, path string, before os.FileInfo) {
	t.Helper()
	testenv.Eventually(t, "a new index", func() bool {
		now, err := os.Stat(path)
		return err == nil && (before == nil || !os.SameFile(before, now))
	})
	require.True(t, h.uses(t, "small:1"), "the next container uses the new one")
}

func TestContainersUseTheIndex(t *testing.T) {
	eachIndexed(t, func(t *testing.T, h *home) {
		path := h.index(t)
		require.True(t, h.uses(t, "small:1"), "made by the import")
		require.NoError(t, os.Remove(path))
		require.False(t, h.uses(t, "small:1"), "there is none")
		h.remade(t, path, nil)
	})
}

func TestSingleIDHasNoIndex(t *testing.T) {
	testenv.FUSE(t)
	u := testenv.Single(t)
	testenv.CheckLeaks(t)
	h := newHome(t, &u)
	require.Empty(t, h.indexes(t))
	require.False(t, h.uses(t, "small:1"))
	require.Empty(t, h.indexes(t))
}

// TestBadIndexIsReplaced: whatever the file is, the container runs, and the next
// one has a good index.
func TestBadIndexIsReplaced(t *testing.T) {
	eachIndexed(t, func(t *testing.T, h *home) {
		path := h.index(t)
		good, err := os.ReadFile(path)
		require.NoError(t, err)
		changed := func(at int) []byte {
			data := bytes.Clone(good)
			data[at] ^= 0x10
			return data
		}
		for name, data := range map[string][]byte{
			"empty": nil, "no index": []byte("no index at all"), "header only": good[:128], "cut short": good[:len(good)-1],
			"longer": append(bytes.Clone(good), 0), "other magic": changed(0), "other version": changed(8),
			"damaged": changed(len(good) / 2), "damaged at the end": changed(len(good) - 1),
		} {
			require.NoError(t, os.WriteFile(path, data, 0o600), name)
			before, err := os.Stat(path)
			require.NoError(t, err)
			require.False(t, h.uses(t, "small:1"), name)
			h.remade(t, path, before)
			again, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, len(good), len(again), name)
		}
	})
}

// TestIndexOfOtherFiles: an index that is whole, but not of this directory as it is
// seen by this user, is not used.
func TestIndexOfOtherFiles(t *testing.T) {
	eachIndexed(t, func(t *testing.T, h *home) {
		path := h.index(t)
		before, err := os.Stat(path)
		require.NoError(t, err)
		layers, err := filepath.Glob(filepath.Join(h.root, "layers/*/diff"))
		require.NoError(t, err)
		require.Len(t, layers, 1)
		var st unix.Stat_t
		require.NoError(t, unix.Stat(layers[0], &st))
		require.NoError(t, os.Chmod(layers[0], os.FileMode(st.Mode&0o777))) // changes nothing but the time of change
		require.False(t, h.uses(t, "small:1"))
		h.remade(t, path, before)
	})
}

func TestImageAndIndexComeAndGo(t *testing.T) {
	eachIndexed(t, func(t *testing.T, h *home) {
		first := h.index(t)
		h.ok(t, "run", "--name", "one", "small:1", "sh", "-c", "echo new > /new; rm /bin/vi")
		h.ok(t, "commit", "one", "changed:1")
		require.Len(t, h.indexes(t), 2)
		require.True(t, h.uses(t, "changed:1"), "made by the commit")
		require.Equal(t, "new\nno vi\n", h.ok(t, "run", "--rm", "changed:1", "sh", "-c", "cat /new; test -e /bin/vi || echo no vi"))
		h.ok(t, "rm", "one")
		h.ok(t, "rmi", "changed:1")
		require.Equal(t, []string{first}, h.indexes(t))
	})
}

// TestIndexOfAContainer stays while a container stands on the chain, also when its
// image has gone.
func TestIndexOfAContainer(t *testing.T) {
	eachIndexed(t, func(t *testing.T, h *home) {
		h.ok(t, "run", "--name", "one", "small:1", "true")
		h.ok(t, "rmi", "-f", "small:1")
		h.index(t)
		h.ok(t, "rm", "one")
		require.Empty(t, h.indexes(t))
		h.ok(t, "import", testenv.Busybox(t).Tar, "small:1")
		require.True(t, h.uses(t, "small:1"), "the same layer, in a new directory")
	})
}

func TestFirstRunsAtOnce(t *testing.T) {
	eachIndexed(t, func(t *testing.T, h *home) {
		path := h.index(t)
		require.NoError(t, os.Remove(path))
		var crowd sync.WaitGroup
		said := make([]string, 6)
		for i := range said {
			crowd.Go(func() {
				out, err := h.command(t.Context(), "run", "--rm", "small:1", "sh", "-c", "ls /bin | wc -l").CombinedOutput()
				said[i] = fmt.Sprintf("%s%v", out, err)
			})
		}
		crowd.Wait()
		for _, text := range said {
			require.Equal(t, said[0], text)
			require.Contains(t, text, "\n<nil>")
		}
		h.remade(t, path, nil)
		testenv.Eventually(t, "nothing unfinished is left", func() bool {
			left, err := os.ReadDir(filepath.Join(h.root, "tmp"))
			return err == nil && len(left) == 0
		})
		h.index(t)
	})
}

// TestNoPlaceForAnIndex: images are made and containers run where none can be kept.
func TestNoPlaceForAnIndex(t *testing.T) {
	eachIndexed(t, func(t *testing.T, h *home) {
		chains := filepath.Dir(h.index(t))
		require.NoError(t, os.RemoveAll(chains))
		require.NoError(t, os.WriteFile(chains, nil, 0o400))
		require.Equal(t, "fine\n", h.ok(t, "run", "--name", "one", "small:1", "echo", "fine"))
		h.ok(t, "commit", "one", "changed:1")
		require.Equal(t, "fine\n", h.ok(t, "run", "--rm", "changed:1", "echo", "fine"))
		require.NoError(t, os.Remove(chains))
	})
}

// TestIndexOnAFullDisk: it is not made, and nothing is left of it.
func TestIndexOnAFullDisk(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	testenv.CheckLeaks(t)
	disk := testenv.Dir(t)
	require.NoError(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64m"))
	defer testenv.Unmount(t, disk)
	h := &home{bin: testenv.Varve(t), root: filepath.Join(disk, "store")}
	h.ok(t, "import", testenv.Busybox(t).Tar, "small:1")
	path := h.index(t)
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	diffID := "sha256:" + strings.TrimSuffix(filepath.Base(path), ".idx") // of one layer, its chain ID
	fill(t, filepath.Join(disk, "full"))
	out, code := h.run(t, "index", diffID)
	require.NotZero(t, code)
	require.Contains(t, out, "no space left")
	left, err := os.ReadDir(filepath.Join(h.root, "tmp"))
	require.NoError(t, err)
	require.Empty(t, left)
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.NoError(t, os.Remove(filepath.Join(disk, "full")))
	require.True(t, h.uses(t, "small:1"))
}

// fill makes a file that takes all the space there is.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	block := make([]byte, 1<<20)
	for size := len(block); size >= 1; {
		if _, err := f.Write(block[:size]); err != nil {
			require.ErrorIs(t, err, unix.ENOSPC)
			size /= 2
		}
	}
	require.NoError(t, f.Close())
}

// TestKilledIndexer: whenever the process that makes an index is killed, the one
// that was there is used, and what it left is swept.
func TestKilledIndexer(t *testing.T) {
	eachIndexed(t, func(t *testing.T, h *home) {
		diffID := "sha256:" + strings.TrimSuffix(filepath.Base(h.index(t)), ".idx") // of one layer, its chain ID
		begun := func() bool {
			left, err := filepath.Glob(filepath.Join(h.root, "tmp/index-*"))
			require.NoError(t, err)
			return len(left) > 0
		}
		for range 5 {
			cmd := h.command(t.Context(), "index", diffID)
			require.NoError(t, cmd.Start())
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			for len(ended) == 0 && !begun() {
				time.Sleep(time.Millisecond)
			}
			_ = cmd.Process.Kill() // it may have ended
			<-ended
			require.True(t, h.uses(t, "small:1"))
		}
		testenv.Eventually(t, "those below the killed ones have ended, and all is swept", func() bool {
			h.ok(t, "sweep")
			return !begun()
		})
		h.ok(t, "index", diffID)
		require.True(t, h.uses(t, "small:1"))
		h.index(t)
	})
}

// TestMountsMakeOneIndex: several mounts of the same directories at once have one
// index, and are all right.
func TestMountsMakeOneIndex(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	testenv.CheckLeaks(t)
	dir := testenv.Dir(t)
	lower, indexes := filepath.Join(dir, "lower"), filepath.Join(dir, "indexes")
	for k := range 200 {
		sub := filepath.Join(lower, strconv.Itoa(k))
		require.NoError(t, os.MkdirAll(sub, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(sub, "file"), []byte(strconv.Itoa(k)), 0o644))
	}
	require.NoError(t, os.Mkdir(indexes, 0o755))
	var crowd sync.WaitGroup
	views, said := make([]string, 5), make([]string, 5)
	for k := range views {
		views[k] = filepath.Join(dir, fmt.Sprint("view", k))
		require.NoError(t, os.Mkdir(views[k], 0o755))
		crowd.Go(func() {
			out, err := exec.Command(testenv.Varve(t), "mount", "-o", "lowerdir="+lower+",index="+indexes, views[k]).CombinedOutput()
			said[k] = fmt.Sprintf("%s%v", out, err)
		})
	}
	crowd.Wait()
	for k, view := range views {
		require.Equal(t, "<nil>", said[k])
		got, err := os.ReadFile(filepath.Join(view, "123/file"))
		require.NoError(t, err)
		require.Equal(t, "123", string(got))
		require.NoError(t, unix.Unmount(view, 0))
	}
	list, err := os.ReadDir(indexes)
	require.NoError(t, err)
	require.Len(t, list, 1)
}
