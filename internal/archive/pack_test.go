package archive

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/whiteout"
)

// openDir opens path until the test ends.
func openDir(t testing.TB, path string) int {
	t.Helper()
	fd, err := at.OpenRoot(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
	return fd
}

// upper makes an upper with everything in it.
func upper(t testing.TB, dialect whiteout.Dialect) string {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(root+"/etc/deep/er", 0o755))
	overwrite(t, root+"/etc/passwd", "root")
	require.NoError(t, os.Chmod(root+"/etc/passwd", 0o644))
	require.NoError(t, os.Link(root+"/etc/passwd", root+"/etc/deep/link"))
	require.NoError(t, os.Symlink("passwd", root+"/etc/sym"))
	require.NoError(t, unix.Mkfifo(root+"/pipe", 0o600))
	overwrite(t, root+"/Zero", "")
	overwrite(t, root+"/é\xff", "name")
	require.NoError(t, at.Setxattr(at.CWD, root+"/etc/passwd", "user.a=b%", []byte("v\x00"), 0))
	require.NoError(t, os.Mkdir(root+"/opaque", 0o750))
	require.NoError(t, dialect.SetOpaque(openDir(t, root+"/opaque")))
	overwrite(t, root+"/opaque/new", "new")
	require.NoError(t, dialect.Hide(openDir(t, root), "gone"))
	require.NoError(t, dialect.Hide(openDir(t, root+"/etc/deep"), "hosts"))
	holes, err := os.Create(root + "/holes")
	require.NoError(t, err)
	_, err = holes.WriteAt([]byte("end"), 8<<20)
	require.NoError(t, err)
	require.NoError(t, holes.Close())
	for path, s := range tree(t, root) {
		if s.Mode&unix.S_IFMT != unix.S_IFCHR {
			require.NoError(t, at.Utimes(at.CWD, root+"/"+path, unix.Timespec{}, unix.NsecToTimespec(when.UnixNano())))
		}
	}
	return root
}

// pack packs root and gives the layer and its tar.
func pack(t testing.TB, root string, opt PackOptions) (string, Unpacked, []byte) {
	t.Helper()
	dir := stage(t)
	got, err := PackUpper(root, dir, opt)
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, WriteLayer(&b, dir, got.DiffID))
	requireSameTar(t, dir, got, b.Bytes())
	return dir, got, b.Bytes()
}

// headers lists the entries of a tar.
func headers(t testing.TB, data []byte) (names []string, byName map[string]*tar.Header) {
	t.Helper()
	byName = map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names, byName
		}
		require.NoError(t, err)
		names = append(names, h.Name)
		byName[h.Name] = h
	}
}

func TestPackUpper(t *testing.T) {
	for _, dialect := range []whiteout.Dialect{whiteout.Overlay, whiteout.OCI} {
		t.Run(dialect.String(), func(t *testing.T) {
			root := upper(t, dialect)
			before, fds := tree(t, root), openFDs(t)
			dir, got, data := pack(t, root, PackOptions{Whiteout: dialect})
			require.Equal(t, fds, openFDs(t))
			require.Equal(t, before, tree(t, root), "the upper changed")
			names, list := headers(t, data)
			require.Equal(t, []string{
				".wh.gone", "Zero", "etc/", "etc/deep/", "etc/deep/.wh.hosts", "etc/deep/er/", "etc/deep/link", "etc/passwd", "etc/sym",
				"holes", "opaque/", "opaque/.wh..wh..opq", "opaque/new", "pipe", "é\xff",
			}, names)
			require.Equal(t, len(names), got.Entries)
			require.EqualValues(t, 8<<20+3+4+3+4, got.Size)
			require.Equal(t, "etc/deep/link", list["etc/passwd"].Linkname)
			require.EqualValues(t, tar.TypeLink, list["etc/passwd"].Typeflag)
			requireSameFile(t, list["etc/deep/link"], list["etc/passwd"])
			require.True(t, list["etc/deep/link"].ModTime.Equal(when))
			require.Equal(t, "v\x00", list["etc/deep/link"].PAXRecords["SCHILY.xattr.user.a%3Db%25"])
			for name, h := range list {
				require.Empty(t, h.Uname+h.Gname, name)
				require.True(t, h.AccessTime.IsZero() && h.ChangeTime.IsZero(), name)
			}
			requireCopy(t, before, dir)
		})
	}
}

// requireSameFile: docker and podman give a file with several names what the last of
// its entries says, so that has to be what the first says.
func requireSameFile(t *testing.T, first, last *tar.Header) {
	t.Helper()
	require.Equal(t, first.Mode, last.Mode)
	require.Equal(t, []int{first.Uid, first.Gid}, []int{last.Uid, last.Gid})
	require.Equal(t, first.ModTime, last.ModTime)
	require.Equal(t, first.PAXRecords["SCHILY.xattr.user.a%3Db%25"], last.PAXRecords["SCHILY.xattr.user.a%3Db%25"])
}

// requireCopy compares the stored files with those of the upper: the same but
// for the times of whiteouts, and with holes.
func requireCopy(t *testing.T, upper map[string]stat, dir string) {
	t.Helper()
	copied := tree(t, dir+"/diff")
	for path, s := range copied {
		if _, hides, _ := whiteout.Parse(path[strings.LastIndexByte(path, '/')+1:]); hides != "" || path == "opaque/.wh..wh..opq" || whiteout.IsDevice(s.Mode, s.Dev) {
			s.MTime = upper[path].MTime
			copied[path] = s
		}
	}
	require.Equal(t, upper, copied)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(dir+"/diff/holes", &st))
	require.Less(t, st.Blocks*512, int64(1<<20))
}

// TestPackUpperIsDeterministic: the dialect, the order of making, another copy
// and other access times change nothing.
func TestPackUpperIsDeterministic(t *testing.T) {
	_, first, _ := pack(t, upper(t, whiteout.OCI), PackOptions{})
	_, second, _ := pack(t, upper(t, whiteout.Overlay), PackOptions{})
	require.Equal(t, first, second)
	root := upper(t, whiteout.OCI)
	_, _, data := pack(t, root, PackOptions{})
	_, err := os.ReadFile(root + "/etc/passwd")
	require.NoError(t, err)
	dir, third, _ := pack(t, root, PackOptions{Whiteout: whiteout.Overlay})
	require.Equal(t, first, third)
	_, fourth, _ := pack(t, dir+"/diff", PackOptions{})
	require.Equal(t, first, fourth)

	overwrite(t, root+"/etc/passwd", "toor")
	_, changed, _ := pack(t, root, PackOptions{})
	require.NotEqual(t, first.DiffID, changed.DiffID)

	layer, unpacked := unpack(t, data)
	require.Equal(t, first, unpacked)
	_, again, _ := pack(t, layer+"/diff", PackOptions{})
	require.Equal(t, first, again, "unpacked and packed again")
}

func TestPackEmptyUpper(t *testing.T) {
	_, got, data := pack(t, t.TempDir(), PackOptions{})
	require.Equal(t, make([]byte, 1024), data)
	require.Zero(t, got.Entries)
	require.EqualValues(t, "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef", got.DiffID)
}

// TestPackHiddenAndThere: a name that is both is a file that hides what is below.
func TestPackHiddenAndThere(t *testing.T) {
	root := t.TempDir()
	fd := openDir(t, root)
	overwrite(t, root+"/file", "x")
	require.NoError(t, os.Mkdir(root+"/dir", 0o755))
	overwrite(t, root+"/dir/in", "y")
	for _, name := range []string{"file", "dir"} {
		require.NoError(t, whiteout.OCI.Hide(fd, name))
	}
	for _, dialect := range []whiteout.Dialect{whiteout.Overlay, whiteout.OCI} {
		dir, _, data := pack(t, root, PackOptions{Whiteout: dialect})
		names, _ := headers(t, data)
		require.Equal(t, []string{"dir/", "dir/.wh..wh..opq", "dir/in", "file"}, names)
		_, again, _ := pack(t, dir+"/diff", PackOptions{})
		require.Equal(t, 4, again.Entries)
	}
}

func TestPackLeavesOut(t *testing.T) {
	root := t.TempDir()
	overwrite(t, root+"/f", "x")
	for _, attr := range []string{"user.overlay.origin", "user.varve.redirect", "user.fuseoverlayfs.x", "user.kept"} {
		require.NoError(t, at.Setxattr(at.CWD, root+"/f", attr, []byte("1"), 0))
	}
	if !newOwners().squash {
		// Anyone inside a container can set this one, so here it says nothing.
		require.NoError(t, at.Setxattr(at.CWD, root+"/f", layout.OverrideAttr, []byte("0:0:04755"), 0))
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: root + "/socket"}))
	require.NoError(t, unix.Close(fd))
	dir, got, data := pack(t, root, PackOptions{})
	require.Equal(t, 1, got.Entries)
	_, list := headers(t, data)
	require.Equal(t, "1", list["f"].PAXRecords["SCHILY.xattr.user.kept"])
	require.Len(t, list["f"].PAXRecords, 2, "mtime and one attribute")
	require.EqualValues(t, 0o600, list["f"].Mode)
	require.Equal(t, map[string]string{"user.kept": "1"}, lstat(t, dir+"/diff/f").Xattrs)
}

func TestPackOwnersAndDevices(t *testing.T) {
	requireRoot(t)
	root := t.TempDir()
	overwrite(t, root+"/su", "x")
	require.NoError(t, os.Chown(root+"/su", 12, 34))
	require.NoError(t, unix.Chmod(root+"/su", 0o6755))
	require.NoError(t, unix.Mknod(root+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	require.NoError(t, os.Mkdir(root+"/closed", 0))
	require.NoError(t, unix.Chmod(root, 0o1711))
	require.NoError(t, at.Setxattr(at.CWD, root+"/su", "trusted.x", []byte("y"), 0))
	dir, _, data := pack(t, root, PackOptions{})
	_, list := headers(t, data)
	su := list["su"]
	require.Equal(t, []any{12, 34, int64(0o6755), "y"}, []any{su.Uid, su.Gid, su.Mode, su.PAXRecords["SCHILY.xattr.trusted.x"]})
	require.Equal(t, []int64{1, 3}, []int64{list["null"].Devmajor, list["null"].Devminor})
	require.Equal(t, tree(t, root), tree(t, dir+"/diff"))
}

func TestPackDeep(t *testing.T) {
	root := t.TempDir()
	data := build(t, file(strings.Repeat("d/", 2000)+"leaf", "leaf"))
	layer, _ := unpack(t, data)
	fds := openFDs(t)
	dir, got, _ := pack(t, layer+"/diff", PackOptions{})
	require.Equal(t, 2001, got.Entries)
	require.Equal(t, fds, openFDs(t))
	for _, path := range []string{dir, layer, root} {
		require.NoError(t, at.RemoveAll(at.CWD, path))
	}
}
