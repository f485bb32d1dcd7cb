package whiteout

import (
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name   string
		mark   Mark
		hidden string
		bad    bool
	}{
		{name: "file", mark: Plain},
		{name: ".who", mark: Plain},
		{name: ".wh.file", mark: Hides, hidden: "file"},
		{name: ".wh..hidden", mark: Hides, hidden: ".hidden"},
		{name: ".wh..wh..opq", mark: Opaque},
		{name: ".wh..wh.plnk", mark: Meta},
		{name: ".wh....", mark: Hides, hidden: "..."},
		{name: ".wh.", mark: Meta, bad: true},
		{name: ".wh..", mark: Meta, bad: true},
		{name: ".wh...", mark: Meta, bad: true},
	} {
		mark, hidden, err := Parse(c.name)
		require.Equal(t, c.mark, mark, c.name)
		require.Equal(t, c.hidden, hidden, c.name)
		if c.bad {
			require.ErrorIs(t, err, ErrBadName, c.name)
		} else {
			require.NoError(t, err, c.name)
		}
	}
}

// FuzzParse: a name hidden in the OCI dialect is the name that is read back.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"a", ".", "..", "...", ".wh.", ".wh..opq", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		mark, hidden, err := Parse(Prefix + name)
		switch {
		case err != nil:
			require.Contains(t, []string{"", ".", ".."}, name)
		case mark == Hides:
			require.Equal(t, name, hidden)
		default:
			require.True(t, strings.HasPrefix(name, ".wh."), "%q is taken for %v", name, mark)
		}
	})
}

func openDir(t *testing.T, path string) int {
	t.Helper()
	fd, err := at.OpenRoot(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
	return fd
}

func TestRoundTrip(t *testing.T) {
	hide := []string{"a", "with space", ".dot", strings.Repeat("n", 251)}
	for _, d := range []Dialect{Overlay, OCI} {
		t.Run(d.String(), func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
			require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
			fd := openDir(t, dir)
			for _, name := range hide {
				require.NoError(t, d.Hide(fd, name))
			}
			l, err := Read(fd)
			require.NoError(t, err)
			sort.Strings(l.Hidden)
			want := append([]string(nil), hide...)
			sort.Strings(want)
			require.Equal(t, want, l.Hidden)
			require.ElementsMatch(t, []string{"file", "sub"}, entryNames(l))
			require.False(t, l.Opaque)
			opaque, err := IsOpaque(fd)
			require.NoError(t, err)
			require.False(t, opaque)

			require.NoError(t, d.SetOpaque(fd))
			opaque, err = IsOpaque(fd)
			require.NoError(t, err)
			l, err = Read(fd)
			require.NoError(t, err)
			require.Equal(t, d == OCI, l.Opaque)
			require.Equal(t, d == Overlay, opaque)
			require.ElementsMatch(t, []string{"file", "sub"}, entryNames(l))
		})
	}
}

func TestMixedDialectsInOneDirectory(t *testing.T) {
	fd := openDir(t, t.TempDir())
	require.NoError(t, Overlay.Hide(fd, "device"))
	require.NoError(t, OCI.Hide(fd, "file"))
	l, err := Read(fd)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"device", "file"}, l.Hidden)
	require.Empty(t, l.Entries)
}

func TestOCIWhiteoutBesideTheFile(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
	fd := openDir(t, dir)
	require.NoError(t, OCI.Hide(fd, "x"))
	l, err := Read(fd)
	require.NoError(t, err)
	require.Equal(t, []string{"x"}, l.Hidden)
	require.Equal(t, []string{"x"}, entryNames(l))

	require.NoError(t, OCI.Unhide(fd, "x"))
	require.NoError(t, OCI.Unhide(fd, "x"), "nothing to remove is no error")
	l, err = Read(fd)
	require.NoError(t, err)
	require.Empty(t, l.Hidden)
}

func TestHideWhatCanNotBe(t *testing.T) {
	dir := t.TempDir()
	fd := openDir(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "there"), nil, 0o600))
	require.ErrorIs(t, Overlay.Hide(fd, "there"), unix.EEXIST)
	require.ErrorIs(t, OCI.Hide(fd, strings.Repeat("n", 252)), unix.ENAMETOOLONG)
	require.ErrorIs(t, Overlay.Hide(fd, strings.Repeat("n", 256)), unix.ENAMETOOLONG)
}

func TestOtherOpaqueAttributesAreRead(t *testing.T) {
	for _, attr := range opaqueAttrs {
		dir := t.TempDir()
		fd := openDir(t, dir)
		if err := unix.Setxattr(dir, attr, []byte("y"), 0); err != nil {
			require.ErrorIs(t, err, unix.EPERM, attr)
			require.NotZero(t, os.Geteuid(), "root may set %s", attr)
			continue
		}
		opaque, err := IsOpaque(fd)
		require.NoError(t, err)
		require.True(t, opaque, attr)
		require.NoError(t, unix.Setxattr(dir, attr, []byte("n"), 0))
		opaque, err = IsOpaque(fd)
		require.NoError(t, err)
		require.False(t, opaque, "%s=n", attr)
	}
}

func TestProbeLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	d, err := Probe(openDir(t, dir))
	require.NoError(t, err)
	require.NotEqual(t, Auto, d)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestParseDialect(t *testing.T) {
	for _, d := range []Dialect{Auto, Overlay, OCI} {
		got, err := ParseDialect(d.String())
		require.NoError(t, err)
		require.Equal(t, d, got)
	}
	_, err := ParseDialect("aufs")
	require.ErrorContains(t, err, "use auto, overlay or oci")
}

func TestPrivateAttr(t *testing.T) {
	for attr, want := range map[string]bool{
		"trusted.overlay.opaque": true, "user.overlay.redirect": true, "user.fuseoverlayfs.opaque": true,
		"user.comment": false, "trusted.other": false, "security.capability": false, "user.overlayish": false,
	} {
		require.Equal(t, want, PrivateAttr(attr), attr)
	}
}

func entryNames(l Listing) []string {
	var names []string
	for _, e := range l.Entries {
		names = append(names, e.Name)
	}
	return names
}

// layers makes directories below a temporary one and returns their descriptors.
func layers(t *testing.T, dirs ...[]string) (roots []int, paths []string) {
	t.Helper()
	for _, list := range dirs {
		root := t.TempDir()
		for _, dir := range list {
			require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
		}
		roots, paths = append(roots, openDir(t, root)), append(paths, root)
	}
	return roots, paths
}

func redirect(t *testing.T, dir, target string) {
	t.Helper()
	require.NoError(t, unix.Setxattr(dir, "user.overlay.redirect", []byte(target), 0))
}

func TestResolve(t *testing.T) {
	roots, paths := layers(t, []string{"X"}, []string{"P/s", "a/b"}, []string{"P/t", "Q/s", "Q/t", "X"}, []string{"Q/t", "X", "a/b"})
	resolve := func(first int, target string) []Part {
		parts, err := Resolve(roots, first, target)
		require.NoError(t, err)
		return parts
	}
	require.Equal(t, []Part{{1, "a/b"}, {3, "a/b"}}, resolve(0, "/a/b"))
	require.Equal(t, []Part{{0, ""}, {1, ""}, {2, ""}, {3, ""}}, resolve(0, "/"))
	require.Equal(t, []Part{{2, "X"}, {3, "X"}}, resolve(1, "X"))
	for _, nowhere := range []string{"/absent", "/a/../X", "/a/b/" + strings.Repeat("n", 300)} {
		require.Empty(t, resolve(0, nowhere), nowhere)
	}

	// A redirect on the way, of a directory whose parent was moved, too: s of P is
	// the t of Q.
	redirect(t, filepath.Join(paths[1], "P"), "/Q")
	redirect(t, filepath.Join(paths[1], "P/s"), "t")
	require.Equal(t, []Part{{1, "P/s"}, {2, "Q/t"}, {3, "Q/t"}}, resolve(1, "/P/s"))
	redirect(t, filepath.Join(paths[1], "P/s"), "../../X")
	require.Equal(t, []Part{{1, "P/s"}}, resolve(1, "/P/s"), "a redirect that is no name leads nowhere")

	// An opaque root hides all below it.
	require.NoError(t, unix.Setxattr(paths[2], "user.overlay.opaque", []byte("y"), 0))
	require.Equal(t, []Part{{2, "X"}}, resolve(1, "/X"))
	require.NoError(t, OCI.Hide(openDir(t, paths[1]), "X"))
	require.Empty(t, resolve(1, "/X"))
}
