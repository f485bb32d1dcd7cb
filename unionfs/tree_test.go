package unionfs

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/whiteout"
)

// model merges layer directories the slow way: every path, from the lowest layer
// up, applied to a map.
func model(t require.TestingT, lowers []string) map[string]string {
	merged := map[string]string{}
	for k := len(lowers) - 1; k >= 0; k-- {
		applyLayer(t, merged, lowers[k], "")
	}
	return merged
}

func applyLayer(t require.TestingT, merged map[string]string, root, dir string) {
	below := func(p string) {
		for have := range merged {
			if strings.HasPrefix(have, p+"/") {
				delete(merged, have)
			}
		}
	}
	list, err := os.ReadDir(filepath.Join(root, dir))
	require.NoError(t, err)
	full := filepath.Join(root, dir)
	opaque := false
	for _, attr := range []string{"trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque"} {
		buf := make([]byte, 1)
		n, err := unix.Lgetxattr(full, attr, buf)
		opaque = opaque || (err == nil && string(buf[:n]) == "y")
	}
	if _, err := os.Lstat(filepath.Join(full, whiteout.OpaqueName)); err == nil || opaque {
		prefix := dir
		if dir == "" {
			clear(merged)
		}
		below(prefix)
	}
	for _, e := range list { // whiteouts first: they speak of what is below this layer
		name, hides := strings.CutPrefix(e.Name(), whiteout.Prefix)
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(filepath.Join(full, e.Name()), &st))
		if whiteout.IsDevice(st.Mode, st.Rdev) {
			name, hides = e.Name(), true
		}
		if hides {
			p := filepath.Join(dir, name)
			delete(merged, p)
			below(p)
		}
	}
	for _, e := range list {
		p := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(filepath.Join(root, p), &st))
		if whiteout.Reserved(e.Name()) || whiteout.IsDevice(st.Mode, st.Rdev) {
			continue
		}
		if !e.IsDir() || !strings.HasPrefix(merged[p], "dir") {
			below(p)
		}
		if e.IsDir() {
			merged[p] = fmt.Sprintf("dir %o", st.Mode)
			applyLayer(t, merged, root, p)
			continue
		}
		data := ""
		if e.Type().IsRegular() {
			b, err := os.ReadFile(filepath.Join(root, p))
			require.NoError(t, err)
			data = string(b)
		}
		merged[p] = fmt.Sprintf("file %o %s", st.Mode, data)
	}
}

// TestTree: the lazily merged tree is what applying one layer after the other
// gives, walked and looked up, and a mount of the same layers shows it too.
func TestTree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, 4)
		defer os.RemoveAll(filepath.Dir(w.mnt))
		fillLayers(rt, w)
		want := model(rt, w.lowers)
		opt := w.options()
		tree, err := OpenTree(opt.Lowers)
		require.NoError(rt, err)
		defer tree.Close()
		require.Equal(rt, want, walked(rt, tree))
		for p := range want {
			e, err := tree.Lookup(p)
			require.NoError(rt, err, p)
			require.Equal(rt, p, e.Path)
		}
		_, err = tree.Lookup("no/such")
		require.ErrorIs(rt, err, os.ErrNotExist)

		s, err := Mount(w.mnt, opt)
		require.NoError(rt, err)
		defer func() { require.NoError(rt, s.Unmount()) }()
		mounted, err := OpenTree([]Lower{{Path: w.mnt}})
		require.NoError(rt, err)
		shown := walked(rt, mounted)
		mounted.Close()
		require.Equal(rt, want, shown, "the mount shows something else than the tree")
	})
}

func walked(t require.TestingT, tree *Tree) map[string]string {
	got := map[string]string{}
	require.NoError(t, tree.Walk(func(e Entry) error {
		switch e.Stat.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			if e.Path != "" {
				got[e.Path] = fmt.Sprintf("dir %o", e.Stat.Mode)
			}
		case unix.S_IFREG:
			f, err := e.Open()
			if err != nil {
				return err
			}
			data, err := io.ReadAll(f)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			got[e.Path] = fmt.Sprintf("file %o %s", e.Stat.Mode, data)
		default:
			got[e.Path] = fmt.Sprintf("file %o ", e.Stat.Mode)
		}
		return nil
	}))
	return got
}

// TestKernelReadsOurUpper: overlayfs mounts an upper that we wrote in its dialect
// and shows the same tree.
func TestKernelReadsOurUpper(t *testing.T) {
	testenv.Root(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 2)
	for i, l := range w.lowers {
		mkdir(t, l, "dir/sub")
		mkdir(t, l, "gone")
		mkdir(t, l, "two/sub/deep")
		mkdir(t, l, "three/sub/deep")
		for _, name := range []string{"a", "b", "dir/x", "dir/sub/y", "two/sub/deep/file", fmt.Sprintf("three/sub/%d", i), fmt.Sprintf("gone/%d", i)} {
			must(os.WriteFile(filepath.Join(l, name), fmt.Appendf(nil, "%s of %d", name, i), 0o644))
		}
	}
	opt := w.options()
	opt.Whiteout = whiteout.Overlay
	w.mount(t, opt)
	in := func(name string) string { return filepath.Join(w.mnt, name) }
	require.NoError(t, os.Remove(in("a")))
	require.NoError(t, os.WriteFile(in("b"), []byte("changed"), 0o600))
	require.NoError(t, os.RemoveAll(in("gone")))
	require.NoError(t, os.Mkdir(in("gone"), 0o711))
	require.NoError(t, os.WriteFile(in("gone/new"), []byte("new"), 0o600))
	require.NoError(t, os.Rename(in("dir/x"), in("dir/z")))
	require.NoError(t, os.Remove(in("dir/sub/y")))
	require.NoError(t, os.Mkdir(in("own"), 0o755))
	require.NoError(t, os.Rename(in("own"), in("a")))
	require.NoError(t, os.Rename(in("two"), in("gone/moved"))) // a redirect
	require.NoError(t, os.Rename(in("gone/moved/sub"), in("two")))
	want := treeOf(t, w.mnt)
	require.Contains(t, want, "two/deep/file")
	w.unmount(t)

	data := fmt.Sprintf("lowerdir=%s:%s,upperdir=%s,workdir=%s,redirect_dir=on", w.lowers[0], w.lowers[1], w.upper, w.work)
	require.NoError(t, unix.Mount("overlay", w.mnt, "overlay", 0, data))
	got := treeOf(t, w.mnt)
	require.NoError(t, os.Remove(in("dir/z"))) // and the other way round
	require.NoError(t, os.WriteFile(in("dir/k"), []byte("kernel"), 0o600))
	require.NoError(t, os.Rename(in("three"), in("four"))) // a relative redirect
	require.NoError(t, os.Rename(in("four/sub"), in("dir/sub3")))
	require.NoError(t, os.WriteFile(in("dir/sub3/k"), []byte("kernel"), 0o600))
	byKernel := treeOf(t, w.mnt)
	require.NoError(t, unix.Unmount(w.mnt, 0))
	require.Equal(t, want, got)

	w.mount(t, opt)
	require.Equal(t, byKernel, treeOf(t, w.mnt))
	w.unmount(t)

	// What the kernel wrote, as a layer.
	opt.Lowers = append([]Lower{{Path: w.upper}}, opt.Lowers...)
	opt.Upper, opt.Work = "", ""
	w.mount(t, opt)
	require.Equal(t, byKernel, treeOf(t, w.mnt))
}
