package whiteout_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/unionfs"
	"github.com/varvefs/varve/whiteout"
)

// errKilled stands for the end of the process.
var errKilled = errors.New("killed")

// TestConvertKeepsTheView: random layers show the same below the same names after a
// conversion there and back, and when it is killed before any step and begun again.
// The times of directories stay, and a second conversion has nothing to do.
func TestConvertKeepsTheView(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		base, err := os.MkdirTemp(t.TempDir(), "layers")
		require.NoError(rt, err)
		defer func() { require.NoError(rt, os.RemoveAll(base)) }()
		var layers []string
		for i := range 3 {
			dir := filepath.Join(base, fmt.Sprint(i))
			require.NoError(rt, os.Mkdir(dir, 0o755))
			fillLayer(rt, dir, i == 0)
			layers = append(layers, dir)
		}
		want := shown(rt, layers)
		root, err := at.OpenRoot(layers[0])
		require.NoError(rt, err)
		defer func() { _ = unix.Close(root) }()
		first := rapid.SampledFrom([]whiteout.Dialect{whiteout.Overlay, whiteout.OCI}).Draw(rt, "first")
		for _, to := range []whiteout.Dialect{first, whiteout.Overlay + whiteout.OCI - first, first} {
			for steps := 0; ; steps++ {
				left := steps
				_, err := whiteout.ConvertUntil(root, to, func() error {
					if left--; left < 0 {
						return errKilled
					}
					return nil
				})
				require.Equal(rt, want, shown(rt, layers), "to %v, killed before step %d: %v", to, steps, err)
				if err == nil {
					break
				}
				require.ErrorIs(rt, err, errKilled)
				steps += rapid.IntRange(0, 3).Draw(rt, "skip") // the state is kept: a few steps of each suffice
			}
			done, err := whiteout.Convert(root, to)
			require.NoError(rt, err)
			require.Zero(rt, done)
			s, err := whiteout.Look(root)
			require.NoError(rt, err)
			require.Subset(rt, []string{to.String()}, s.Dialects, "%v", s.Marks)
		}
	})
}

// shown is what the union of layers shows: names, kinds, what is in files, the
// times and owners of all.
func shown(t require.TestingT, layers []string) (list []string) {
	var lowers []unionfs.Lower
	for _, dir := range layers {
		lowers = append(lowers, unionfs.Lower{Path: dir})
	}
	tree, err := unionfs.OpenTree(lowers)
	require.NoError(t, err)
	defer tree.Close()
	require.NoError(t, tree.Walk(func(e unionfs.Entry) error {
		line := fmt.Sprintf("%q %o %d:%d %v", e.Path, e.Stat.Mode, e.Stat.Uid, e.Stat.Gid, e.Stat.Mtim)
		if e.Stat.Mode&unix.S_IFMT == unix.S_IFREG {
			f, err := e.Open()
			require.NoError(t, err)
			data, err := io.ReadAll(f)
			require.NoError(t, errors.Join(err, f.Close()))
			line += fmt.Sprintf(" %s", data)
		}
		list = append(list, line)
		return nil
	}))
	slices.Sort(list)
	return list
}

// fillLayer makes a random layer of files, directories and marks of all dialects.
// Redirects are in other layers than the one that is converted, since no conversion
// can say them, or void.
func fillLayer(rt *rapid.T, root string, converted bool) {
	drawn := func(label string) string {
		parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 3).Draw(rt, label)
		return filepath.Join(append([]string{root}, parts...)...)
	}
	setxattr := func(path, attr, value string) { _ = unix.Setxattr(path, attr, []byte(value), 0) }
	for i := range rapid.IntRange(0, 14).Draw(rt, "files") {
		p := drawn("path")
		if os.MkdirAll(filepath.Dir(p), 0o755) != nil {
			continue // a file is in the way
		}
		dir, name := filepath.Split(p)
		switch rapid.IntRange(0, 8).Draw(rt, "kind") {
		case 0, 1:
			_ = unix.Mknod(p, unix.S_IFCHR, 0)
		case 2, 3:
			_ = os.WriteFile(filepath.Join(dir, whiteout.Prefix+name), nil, 0o600)
		case 4:
			if os.MkdirAll(p, 0o755) == nil {
				setxattr(p, rapid.SampledFrom([]string{"trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque"}).Draw(rt, "attr"), "y")
			}
		case 5:
			if os.MkdirAll(p, 0o755) == nil && !redirected(p) {
				_ = os.WriteFile(filepath.Join(p, whiteout.OpaqueName), nil, 0o600)
			}
		case 6:
			_ = os.Mkdir(p, 0o750)
		case 7:
			if os.MkdirAll(p, 0o755) != nil {
				continue
			}
			if converted {
				setxattr(p, "user.overlay.opaque", "y") // so it is void
			}
			if _, err := os.Lstat(filepath.Join(p, whiteout.OpaqueName)); err != nil {
				setxattr(p, "user.overlay.redirect", "/b")
			}
		default:
			if _, err := os.Lstat(p); err != nil {
				require.NoError(rt, os.WriteFile(p, fmt.Appendf(nil, "%s %d", filepath.Base(root), i), 0o640))
			}
		}
	}
}

func redirected(dir string) bool {
	_, err := unix.Getxattr(dir, "user.overlay.redirect", nil)
	return err == nil
}
