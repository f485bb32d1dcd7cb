package index_test

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/index"
	"github.com/varvefs/varve/internal/testenv"
)

// buildForever in the environment makes this test build the index of a directory
// at a path again and again: "directory:path".
const buildForever = "VARVE_TEST_BUILD_INDEX"

func TestMain(m *testing.M) {
	if order, ok := os.LookupEnv(buildForever); ok {
		dir, path, _ := strings.Cut(order, ":")
		for {
			if err := index.Build(path, []index.Layer{{Path: dir, ID: "x"}}); err != nil {
				panic(err)
			}
		}
	}
	os.Exit(m.Run())
}

// TestKilledWhileBuilding: whenever the builder is killed, there is no index or a
// whole one.
func TestKilledWhileBuilding(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	for i := range 200 {
		require.NoError(t, os.WriteFile(filepath.Join(dir, strings.Repeat("n", i+1)), nil, 0o644))
	}
	path := filepath.Join(out, "chain.idx")
	whole, life := 0, time.Duration(0) // of the first, until it has made an index
	for range 30 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), buildForever+"="+dir+":"+path)
		require.NoError(t, cmd.Start())
		if begin := time.Now(); life == 0 {
			testenv.Eventually(t, "an index", func() bool { _, err := os.Lstat(path); return err == nil })
			life = time.Since(begin)
		} else {
			time.Sleep(rand.N(2 * life))
		}
		require.NoError(t, cmd.Process.Kill())
		require.ErrorContains(t, cmd.Wait(), "killed")
		x, err := index.Open(path, []string{"x"})
		if err != nil {
			require.ErrorIs(t, err, os.ErrNotExist)
			continue
		}
		whole++
		require.Equal(t, 201, x.Len())
		require.NoError(t, x.Close())
		require.NoError(t, os.Remove(path))
	}
	require.NotZero(t, whole, "never lived long enough")
	left, err := os.ReadDir(out)
	require.NoError(t, err)
	for _, e := range left {
		require.True(t, strings.HasPrefix(e.Name(), ".chain.idx.new-"), e.Name())
	}
}

// TestReplacedWhileOpen: who has the old index keeps it.
func TestReplacedWhileOpen(t *testing.T) {
	testenv.CheckLeaks(t)
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "index")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "old"), nil, 0o644))
	before := build(t, path, []string{dir})
	require.NoError(t, os.Rename(filepath.Join(dir, "old"), filepath.Join(dir, "new")))
	after := build(t, path, []string{dir})
	_, ok := before.Lookup(0, "old")
	require.True(t, ok)
	_, ok = after.Lookup(0, "old")
	require.False(t, ok)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	require.NoError(t, before.Close())
	require.NoError(t, before.Close(), "a second close does nothing")
	require.NoError(t, after.Close())
}

func TestBuildFailsWhole(t *testing.T) {
	testenv.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "index")
	require.ErrorContains(t, index.Build(path, nil), "0 layers")
	gone := filepath.Join(t.TempDir(), "gone")
	err := index.Build(path, []index.Layer{{Path: t.TempDir()}, {Path: gone}})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "layer 1")
	require.NoFileExists(t, path)
	require.ErrorIs(t, index.Build(filepath.Join(gone, "index"), []index.Layer{{Path: t.TempDir()}}), os.ErrNotExist)
	require.NoError(t, os.Mkdir(path, 0o755))
	require.Error(t, index.Build(path, []index.Layer{{Path: t.TempDir()}}))
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1, "something is left beside the index")
}

// TestUnreadableLayer: an index of what could be read would hide the rest.
func TestUnreadableLayer(t *testing.T) {
	testenv.NotRoot(t)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "secret"), 0o100))
	err := index.Build(filepath.Join(t.TempDir(), "index"), []index.Layer{{Path: dir}})
	require.ErrorIs(t, err, os.ErrPermission)
	require.ErrorContains(t, err, "/secret")
}

// TestAttributes: owner, mode, size, device and times to the nanosecond, before
// 1970 and after 2038, and the attributes that a view shows.
func TestAttributes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(path, []byte("content"), 0o600))
	require.NoError(t, unix.Chmod(path, 0o4751))
	for _, attr := range []string{"user.b", "user.a", "user.overlay.origin", "user.varve.x", "user.fuseoverlayfs.uid"} {
		require.NoError(t, unix.Setxattr(path, attr, []byte("of "+attr), 0))
	}
	sparse := filepath.Join(dir, "sparse")
	require.NoError(t, os.WriteFile(sparse, nil, 0o640))
	require.NoError(t, os.Truncate(sparse, 5<<32))
	times := []unix.Timespec{{Sec: -86400, Nsec: 1}, {Sec: 1 << 33, Nsec: 999999999}}
	require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, times, 0))
	want := map[string]unix.Stat_t{}
	for _, name := range []string{"file", "sparse"} {
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(filepath.Join(dir, name), &st))
		st.Dev = 0
		want[name] = st
	}
	x := build(t, filepath.Join(t.TempDir(), "index"), []string{dir})
	defer x.Close()
	for name, st := range want {
		n, ok := x.Lookup(0, name)
		require.True(t, ok)
		var got unix.Stat_t
		x.Stat(n, &got)
		require.Equal(t, st, got, name)
	}
	n, _ := x.Lookup(0, "file")
	var attrs []string
	for name, value := range x.Xattrs(n) {
		require.Equal(t, "of "+string(name), string(value))
		attrs = append(attrs, string(name))
	}
	require.Equal(t, []string{"user.a", "user.b"}, attrs)
	_, ok := x.Xattr(n, "user.overlay.origin")
	require.False(t, ok)
	var root unix.Stat_t
	require.NoError(t, unix.Lstat(dir, &root))
	require.Equal(t, root.Ino, x.RootIno(0))
}

// TestTimesOutOfRange become the nearest that can be kept.
func TestTimesOutOfRange(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "varve-index-") // tmpfs keeps any
	if err != nil {
		t.Skip("no tmpfs at /dev/shm: ", err)
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	path := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	times := []unix.Timespec{{Sec: -1 << 40, Nsec: 5}, {Sec: 1 << 40, Nsec: 5}}
	require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, times, 0))
	x := build(t, filepath.Join(t.TempDir(), "index"), []string{dir})
	defer x.Close()
	var st unix.Stat_t
	x.Stat(1, &st)
	require.Equal(t, unix.Timespec{Sec: -1 << 31}, st.Atim)
	require.Equal(t, unix.Timespec{Sec: 1<<34 - 1<<31 - 1}, st.Mtim)
}

// TestManyLayers: as many as there may be descriptors for.
func TestManyLayers(t *testing.T) {
	base := t.TempDir()
	var layers []string
	for i := range 500 {
		layer := filepath.Join(base, "layer", strings.Repeat("x", i%200+1), time.Duration(i).String())
		require.NoError(t, os.MkdirAll(filepath.Join(layer, "dir"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(layer, "dir", time.Duration(i/2).String()), nil, 0o644))
		layers = append(layers, layer)
	}
	x := build(t, filepath.Join(base, "index"), layers)
	defer x.Close()
	dir, ok := x.Lookup(0, "dir")
	require.True(t, ok)
	require.Equal(t, 250, x.Count(dir))
	for k := range 250 {
		n, ok := x.Lookup(dir, time.Duration(k).String())
		require.True(t, ok)
		require.Equal(t, 2*k, x.Layer(n), "not the topmost")
	}
	parts := 0
	for layer, path := range x.Parts(dir) {
		require.Equal(t, parts, layer)
		require.Equal(t, "dir", path)
		parts++
	}
	require.Equal(t, 500, parts)
}

// TestManyReaders share an index.
func TestManyReaders(t *testing.T) {
	dir := t.TempDir()
	for i := range 300 {
		require.NoError(t, os.WriteFile(filepath.Join(dir, strings.Repeat("n", i%250+1)), nil, 0o644))
	}
	x := build(t, filepath.Join(t.TempDir(), "index"), []string{dir})
	defer x.Close()
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			for i := range 20000 {
				_, ok := x.Lookup(0, strings.Repeat("n", i%300+1))
				if ok != (i%300 < 250) {
					t.Errorf("name %d: %v", i%300, ok)
				}
			}
		})
	}
	readers.Wait()
}

// TestRedirectsThatLeadNowhere end there, and never outside of the layers.
func TestRedirectsThatLeadNowhere(t *testing.T) {
	for _, redirect := range []string{"..", ".", "../../etc", "/..", "/../outside", "a/b", "/gone", "gone", "/file", "/link", "/" + strings.Repeat("n", 300)} {
		base := t.TempDir()
		top, low := filepath.Join(base, "top"), filepath.Join(base, "low")
		for _, d := range []string{"top/dir", "low/dir/hidden", "low/a/b/hidden", "outside/hidden"} {
			require.NoError(t, os.MkdirAll(filepath.Join(base, d), 0o755))
		}
		require.NoError(t, os.WriteFile(filepath.Join(low, "file"), nil, 0o644))
		require.NoError(t, os.Symlink("a/b", filepath.Join(low, "link")))
		require.NoError(t, unix.Setxattr(filepath.Join(top, "dir"), "user.overlay.redirect", []byte(redirect), 0))
		x := build(t, filepath.Join(base, "index"), []string{top, low})
		dir, ok := x.Lookup(0, "dir")
		require.True(t, ok)
		require.Zero(t, x.Count(dir), redirect)
		require.NoError(t, x.Close())
	}
}

// TestRedirectToTheRoot: no kernel writes it, and it is read as what it says.
func TestRedirectToTheRoot(t *testing.T) {
	base := t.TempDir()
	top, low := filepath.Join(base, "top"), filepath.Join(base, "low")
	require.NoError(t, os.MkdirAll(filepath.Join(top, "dir"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(low, "a"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(low, "a/b"), nil, 0o644))
	require.NoError(t, unix.Setxattr(filepath.Join(top, "dir"), "user.overlay.redirect", []byte("/"), 0))
	x := build(t, filepath.Join(base, "index"), []string{top, low})
	defer x.Close()
	dir, _ := x.Lookup(0, "dir")
	a, _ := x.Lookup(dir, "a")
	b, ok := x.Lookup(a, "b")
	require.True(t, ok)
	layer, path := x.Place(b)
	require.Equal(t, 1, layer)
	require.Equal(t, "a/b", path)
	require.Equal(t, "dir/a/b", x.Path(b))
}
