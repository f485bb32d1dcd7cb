package whiteout_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// layerDir is an empty layer and its descriptor.
func layerDir(t *testing.T) (dir string, fd int) {
	t.Helper()
	dir = t.TempDir()
	fd, err := at.OpenRoot(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
	return dir, fd
}

func attr(t *testing.T, path, name, value string) {
	t.Helper()
	require.NoError(t, unix.Lsetxattr(path, name, []byte(value), 0))
}

func write(t *testing.T, path, data string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(data), 0o644))
}

func TestLookCounts(t *testing.T) {
	dir, fd := layerDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	write(t, in("a/file"), "x")
	require.NoError(t, os.Link(in("a/file"), in("a/again")))
	attr(t, in("a/file"), "user.varve.ino", "77") // both names have it
	require.NoError(t, os.Symlink("/nowhere", in("a/link")))
	require.NoError(t, unix.Mkfifo(in("a/fifo"), 0o600))
	require.NoError(t, unix.Mknod(in("a/gone"), unix.S_IFCHR, 0))
	write(t, in("a/.wh.gone too"), "")
	write(t, in("b/.wh..wh..opq"), "")
	write(t, in("b/.wh..wh.plnk"), "AUFS' own")
	for name, mark := range map[string]string{"c": "user.overlay.opaque", "d": "user.fuseoverlayfs.opaque"} {
		require.NoError(t, os.Mkdir(in(name), 0o755))
		attr(t, in(name), mark, "y")
	}
	require.NoError(t, os.Mkdir(in("e"), 0o755))
	attr(t, in("e"), "user.overlay.redirect", "/some/where")
	attr(t, in("e"), "user.overlay.origin", "kernel's")
	write(t, in("f"), "")
	attr(t, in("f"), "user.overlay.metacopy", "")
	attr(t, in("f"), "user.overlay.redirect", "elsewhere")

	s, err := whiteout.Look(fd)
	require.NoError(t, err)
	require.Empty(t, s.Problems)
	require.Equal(t, []string{"fuse-overlayfs", "oci", "overlay"}, s.Dialects)
	require.Equal(t, map[string]int{
		"character device 0/0": 1, ".wh.NAME": 1, ".wh..wh..opq": 1, "user.overlay.opaque": 1, "user.fuseoverlayfs.opaque": 1,
		"user.overlay.redirect": 2, "user.overlay.metacopy": 1,
	}, s.Marks)
	require.Equal(t, []int{5, 6, 2, 3, 2, 1}, []int{s.Files, s.Directories, s.Whiteouts, s.Opaque, s.Redirects, s.Metacopy})
	require.Len(t, s.Bars(whiteout.OCI), 3)
	require.Empty(t, s.Bars(whiteout.Overlay))
	_, err = whiteout.Convert(fd, whiteout.OCI)
	require.ErrorIs(t, err, whiteout.ErrBarred)
	again, err := whiteout.Look(fd)
	require.NoError(t, err)
	require.Equal(t, s.Marks, again.Marks, "nothing was changed")
}

// TestLookFinds has a layer for each thing that can be wrong: what is told of which
// path, and whether it keeps from a conversion.
func TestLookFinds(t *testing.T) {
	redirect := func(value string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			require.NoError(t, os.Mkdir(dir+"/d", 0o755))
			attr(t, dir+"/d", "user.overlay.redirect", value)
		}
	}
	file := func(name, data string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { write(t, filepath.Join(dir, name), data) }
	}
	long := strings.Repeat("x", 252)
	for name, c := range map[string]struct {
		make func(t *testing.T, dir string)
		want string // "" if it is no problem
		bars string // "overlay", "oci", "both" or none
	}{
		"hides nothing":       {file("a/.wh.", ""), "a/.wh.: a whiteout of no possible name", "both"},
		"hides the parent":    {file(".wh...", ""), ".wh...: a whiteout of no possible name", "both"},
		"whiteout of data":    {file(".wh.x", "data"), ".wh.x: it has the name of a whiteout and is no empty file", "both"},
		"opaque mark of data": {file(".wh..wh..opq", "data"), ".wh..wh..opq: it has the name of a whiteout and is no empty file", "both"},
		"whiteout directory":  {file(".wh.x/y", ""), ".wh.x: it has the name of a whiteout and is no empty file", "both"},
		"beside": {func(t *testing.T, dir string) { write(t, dir+"/x", ""); write(t, dir+"/.wh.x", "") },
			`.wh.x: "x", which it hides, is in the same directory`, ""},
		"beside a metacopy": {func(t *testing.T, dir string) {
			write(t, dir+"/x", "")
			attr(t, dir+"/x", "user.overlay.metacopy", "")
			write(t, dir+"/.wh.x", "")
		}, `.wh.x: it hides the data of "x", which is only metadata here`, "both"},
		"two whiteouts of a name": {func(t *testing.T, dir string) {
			require.NoError(t, unix.Mknod(dir+"/x", unix.S_IFCHR, 0))
			write(t, dir+"/.wh.x", "")
		}, "", ""},
		"opaque file": {func(t *testing.T, dir string) { write(t, dir+"/x", ""); attr(t, dir+"/x", "user.overlay.opaque", "y") },
			"x: attribute user.overlay.opaque makes a directory opaque, and it is none", ""},
		"opaque, how": {func(t *testing.T, dir string) { attr(t, dir, "user.overlay.opaque", "x") },
			`.: attribute user.overlay.opaque has the value "x"`, ""},
		"redirect up":        {redirect("/a/../b"), `d: attribute user.overlay.redirect leads to "/a/../b", which leaves the layers`, "oci"},
		"redirect only up":   {redirect(".."), `d: attribute user.overlay.redirect leads to "..", which leaves the layers`, "oci"},
		"redirect nowhere":   {redirect(""), "which is empty", "oci"},
		"redirect relative":  {redirect("a/b"), "which is neither one name nor a path", "oci"},
		"redirect doubled":   {redirect("/a//b"), "which is no path", "oci"},
		"redirect with NUL":  {redirect("a\x00b"), "which is no path", "oci"},
		"redirect to root":   {redirect("/"), "", "oci"},
		"redirect, two ways": {func(t *testing.T, dir string) { redirect("/a")(t, dir); write(t, dir+"/d/.wh..wh..opq", "") }, "d/.wh..wh..opq: its directory has a redirect, too", "both"},
		"redirect, void":     {func(t *testing.T, dir string) { redirect("/a")(t, dir); attr(t, dir+"/d", "user.overlay.opaque", "y") }, "d: it has a redirect, which means nothing", ""},
		"redirect of a file": {func(t *testing.T, dir string) {
			write(t, dir+"/x", "")
			attr(t, dir+"/x", "user.overlay.redirect", "/y")
		}, "x: it has a redirect, and is neither", ""},
		"metacopy of a directory": {func(t *testing.T, dir string) { attr(t, dir, "user.overlay.metacopy", "") },
			".: attribute user.overlay.metacopy says that the data is below, and it is no regular file", "oci"},
		"inode number": {func(t *testing.T, dir string) { write(t, dir+"/x", ""); attr(t, dir+"/x", "user.varve.ino", "-1") },
			`x: attribute user.varve.ino has the value "-1", which is no inode number`, ""},
		"doubled inode number": {func(t *testing.T, dir string) {
			for _, name := range []string{"x", "y"} {
				write(t, filepath.Join(dir, name), "")
				attr(t, filepath.Join(dir, name), "user.varve.ino", "9")
			}
		}, "y: it is to be shown with inode number 9, as x is, which is another file", ""},
		"long name":        {func(t *testing.T, dir string) { require.NoError(t, unix.Mknod(dir+"/"+long, unix.S_IFCHR, 0)) }, "", "oci"},
		"a line in a name": {file("a\nb/.wh.", ""), `"a\nb/.wh.": a whiteout of no possible name`, "both"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, fd := layerDir(t)
			c.make(t, dir)
			s, err := whiteout.Look(fd)
			require.NoError(t, err)
			if c.want == "" {
				require.Empty(t, s.Problems)
			} else {
				require.Len(t, s.Problems, 1)
				require.Contains(t, s.Problems[0].String(), c.want)
			}
			require.Equal(t, c.bars == "overlay" || c.bars == "both", len(s.Bars(whiteout.Overlay)) > 0)
			require.Equal(t, c.bars == "oci" || c.bars == "both", len(s.Bars(whiteout.OCI)) > 0)
		})
	}
}

// TestLookUnreadable: what is closed to this user is told, and what is his own is not.
func TestLookUnreadable(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user for a moment")
	}
	dir, fd := layerDir(t)
	write(t, dir+"/others", "")
	require.NoError(t, os.Chmod(dir+"/others", 0))
	write(t, dir+"/own", "")
	require.NoError(t, os.Chmod(dir+"/own", 0))
	require.NoError(t, os.Chown(dir+"/own", 12345, 12345))
	require.NoError(t, os.Mkdir(dir+"/closed", 0o700))
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	var s *whiteout.Survey
	asUser(t, 12345, func() (err error) { s, err = whiteout.Look(fd); return err })
	require.Len(t, s.Problems, 2)
	require.Equal(t, "closed: it can not be read: permission denied", s.Problems[0].String())
	require.Equal(t, "others: it can not be read: permission denied", s.Problems[1].String())
}

// TestConvertOverlay makes what kernel overlayfs reads, of all that there is to say.
func TestConvertOverlay(t *testing.T) {
	dir, fd := layerDir(t)
	write(t, dir+"/.wh.gone", "")
	write(t, dir+"/new/.wh..wh..opq", "")
	write(t, dir+"/both/x", "")
	write(t, dir+"/.wh.both", "")
	write(t, dir+"/file", "")
	write(t, dir+"/.wh.file", "")
	require.NoError(t, os.Mkdir(dir+"/fuse", 0o755))
	attr(t, dir+"/fuse", "user.fuseoverlayfs.opaque", "y")
	done, err := whiteout.Convert(fd, whiteout.Overlay)
	require.NoError(t, err)
	require.Equal(t, whiteout.Conversion{Written: 4, Removed: 5}, done)
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	require.Equal(t, []string{"both", "file", "fuse", "gone", "new"}, names)
	s, err := whiteout.Look(fd)
	require.NoError(t, err)
	require.Equal(t, []string{"overlay"}, s.Dialects)
	require.Equal(t, []int{1, 3}, []int{s.Whiteouts, s.Opaque})
}

// asUser calls fn on a thread that is another user for that time.
func asUser(t *testing.T, uid int, fn func() error) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	become := func(uid int) {
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0))
		require.Zero(t, errno)
	}
	become(uid)
	err := fn()
	become(0)
	require.NoError(t, err)
}
