package engine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/unionfs"
)

// TestConvertRefusesWhatIsInUse: the upper of a view, its layers, and a work
// directory that a view holds; and a view of an upper that is being rewritten.
func TestConvertRefusesWhatIsInUse(t *testing.T) {
	testenv.FUSE(t)
	testenv.CheckLeaks(t)
	base := t.TempDir()
	in := func(name string) string { return filepath.Join(base, name) }
	for _, name := range []string{"mnt", "up", "work", "low", "other"} {
		require.NoError(t, os.Mkdir(in(name), 0o755))
	}
	require.NoError(t, os.WriteFile(in("up/.wh.x"), nil, 0o644))
	view := unionfs.Options{Upper: in("up"), Work: in("work"), Lowers: []unionfs.Lower{{Path: in("low")}}}
	server, err := unionfs.Mount(in("mnt"), view)
	require.NoError(t, err)
	for dir, work := range map[string]string{"up": "", "low": "", "other": in("work")} {
		_, err := CheckLayer(in(dir), CheckOptions{Convert: "overlay", Work: work})
		require.ErrorContains(t, err, "unmount that first", dir)
	}
	_, err = CheckLayer(in("up"), CheckOptions{})
	require.NoError(t, err, "it may be looked at")
	require.FileExists(t, in("up/.wh.x"))
	require.NoError(t, server.Unmount())

	c, err := CheckLayer(in("up"), CheckOptions{Convert: "overlay", Work: in("work")})
	require.NoError(t, err)
	require.Equal(t, 1, c.Conversion.Written)
	require.Equal(t, []string{"overlay"}, c.Dialects)

	root, err := os.Open(in("up"))
	require.NoError(t, err)
	require.NoError(t, unix.Flock(int(root.Fd()), unix.LOCK_EX))
	_, err = unionfs.Mount(in("mnt"), view)
	require.ErrorContains(t, err, "is being rewritten")
	require.NoError(t, root.Close())

	low, err := os.Open(in("low"))
	require.NoError(t, err)
	require.NoError(t, unix.Flock(int(low.Fd()), unix.LOCK_EX))
	server, err = unionfs.Mount(in("mnt"), view)
	require.NoError(t, err, "nobody who may read a layer can keep others from it")
	require.NoError(t, server.Unmount())
	require.NoError(t, low.Close())
}

func TestConvertRefusesOverlayfs(t *testing.T) {
	testenv.Root(t)
	base := t.TempDir()
	in := func(name string) string { return filepath.Join(base, name) }
	for _, name := range []string{"mnt", "up:x,y", "work", "low"} {
		require.NoError(t, os.Mkdir(in(name), 0o755))
	}
	err := unix.Mount("overlay", in("mnt"), "overlay", 0, "lowerdir="+in("low")+`,upperdir=`+base+`/up:x\,y,workdir=`+in("work"))
	if err != nil {
		t.Skipf("needs kernel overlayfs: %v", err)
	}
	defer func() { require.NoError(t, unix.Unmount(in("mnt"), 0)) }()
	for _, dir := range []string{"up:x,y", "low"} {
		_, err := CheckLayer(in(dir), CheckOptions{Convert: "oci"})
		require.ErrorContains(t, err, "overlayfs has "+in(dir)+" mounted")
	}
}

func TestOverlayDirs(t *testing.T) {
	require.Equal(t, []string{"/a b", "/c:d", "/e", "/f,g"},
		overlayDirs(`overlay rw,lowerdir=/a\040b:/c\134:d:l,lowerdir+=/e,upperdir=/f\134\054g,workdir=/w`+"\n"))
	require.Empty(t, overlayDirs(""))
}

// TestConvertSaysWhatIsDenied: a file system without attributes.
func TestConvertSaysWhatIsDenied(t *testing.T) {
	testenv.Root(t)
	dir := t.TempDir()
	require.NoError(t, unix.Mount("none", dir, "ramfs", 0, ""))
	defer func() { require.NoError(t, unix.Unmount(dir, 0)) }()
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".wh.x"), nil, 0o644))
	_, err := CheckLayer(dir, CheckOptions{Convert: "overlay"})
	require.ErrorContains(t, err, "neither trusted.overlay.opaque nor user.overlay.opaque")
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, list, 1, "nothing was changed")
}
