package archive

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
)

// owned gives an entry another owner.
func owned(it item, uid, gid int) item {
	it.Uid, it.Gid = uid, gid
	return it
}

// keepAs makes a file stand for something else.
func keepAs(t *testing.T, path, data, value string) {
	t.Helper()
	overwrite(t, path, data)
	require.NoError(t, unix.Setxattr(path, layout.OverrideAttr, []byte(value), 0))
}

// strangers is a layer with links and FIFOs of others, and some of one's own.
func strangers(t *testing.T) []byte {
	t.Helper()
	shut := owned(node("shut", tar.TypeFifo, 0, 0), os.Geteuid(), os.Getegid())
	shut.Mode = 0o444
	return build(t, dir("d"), owned(symlink("l", "d"), 33, 44), hardlink("l too", "l"), file("l/x", "by the link"), file("l too/y", "y"),
		owned(symlink("abs", "/d/"), 0, 7), file("abs/z", "z"), owned(symlink("up", "../../d"), 7, 0), file("up/deep/w", "w"),
		owned(node("pipe", tar.TypeFifo, 0, 0), 33, 44), shut,
		owned(symlink("mine", "d"), os.Geteuid(), os.Getegid()), owned(node("my pipe", tar.TypeFifo, 0, 0), os.Geteuid(), os.Getegid()),
		owned(symlink("late", "nowhere"), 33, 44), file("late", "a file since"),
		owned(symlink("dir late", "nowhere"), 33, 44), dir("dir late"), file("dir late/f", ""))
}

// TestSquashStandIns: what can not have an owner is a file that stands for it, through
// which later entries are found, and the tar has what it had.
func TestSquashStandIns(t *testing.T) {
	requireSquash(t)
	data := strangers(t)
	layer, got := unpack(t, data)
	requireSameTar(t, layer, got, data)
	files := tree(t, layer+"/diff")
	for path, want := range map[string]string{
		"l": "33:44:0777:symlink", "l too": "33:44:0777:symlink", "abs": "0:7:0777:symlink", "up": "7:0:0777:symlink",
		"pipe": "33:44:0600:pipe", "shut": fmt.Sprintf("%d:%d:0444:pipe", os.Geteuid(), os.Getegid()),
	} {
		require.EqualValues(t, unix.S_IFREG, files[path].Mode&^uint32(0o644), path)
		require.Zero(t, files[path].Mode&0o111, path)
		require.Equal(t, want, files[path].Xattrs[layout.OverrideAttr], path)
		require.Equal(t, when.UnixNano(), files[path].MTime.UnixNano(), path)
	}
	require.Equal(t, []any{"d", uint64(2)}, []any{files["l"].Data, files["l"].Nlink})
	require.Equal(t, "d", files["mine"].Link)
	require.EqualValues(t, unix.S_IFIFO|0o600, files["my pipe"].Mode)
	for path, want := range map[string]string{"d/x": "by the link", "d/y": "y", "d/z": "z", "d/deep/w": "w", "late": "a file since"} {
		require.Equal(t, want, files[path].Data, path)
	}
	require.Contains(t, files, "dir late/f")

	packed, _, again := pack(t, layer+"/diff", PackOptions{})
	_, h := headers(t, again)
	for name, want := range map[string][]any{
		"l": {byte(tar.TypeSymlink), "d", 33, 44, int64(0o777)}, "l too": {byte(tar.TypeLink), "l", 33, 44, int64(0o777)},
		"abs": {byte(tar.TypeSymlink), "/d/", 0, 7, int64(0o777)}, "pipe": {byte(tar.TypeFifo), "", 33, 44, int64(0o600)},
		"shut": {byte(tar.TypeFifo), "", os.Geteuid(), os.Getegid(), int64(0o444)},
		"mine": {byte(tar.TypeSymlink), "d", os.Geteuid(), os.Getegid(), int64(0o777)},
	} {
		require.NotNil(t, h[name], name)
		require.Equal(t, want, []any{h[name].Typeflag, h[name].Linkname, h[name].Uid, h[name].Gid, h[name].Mode}, name)
		require.Zero(t, h[name].Size, name)
	}
	require.Equal(t, files, tree(t, packed+"/diff"), "what is packed lies as what is unpacked")

	s, copied := newSnapshot(t, layer+"/diff")
	packedFrom(t, layer+"/diff", copied, s)
}

// TestSquashStandInsAttack: what stands for a link leads nowhere that a link does not.
func TestSquashStandInsAttack(t *testing.T) {
	requireSquash(t)
	outside := t.TempDir()
	layer, _ := unpack(t, build(t, owned(symlink("out", outside), 33, 44), file("out/x", "x"),
		owned(symlink("far", "../../../../.."+outside), 33, 44), file("far/y", "y")))
	list, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, list)
	for _, name := range []string{"x", "y"} {
		require.FileExists(t, filepath.Join(layer, "diff", outside, name))
	}
	for what, bad := range map[string][]byte{
		"loop":     build(t, owned(symlink("a", "b"), 33, 44), owned(symlink("b", "a"), 33, 44), file("a/x", "")),
		"whiteout": build(t, dir("d"), owned(symlink("l", "d"), 33, 44), file("l/.wh.x", "")),
		"long":     build(t, owned(symlink("l", string(bytes.Repeat([]byte("n/"), 2048))), 33, 44)),
	} {
		_, err := Unpack(bytes.NewReader(bad), stage(t), UnpackOptions{})
		require.Error(t, err, what)
	}
	// An archive can not say by itself what a file stands for.
	forged := file("forged", "d")
	forged.PAXRecords = map[string]string{xattrKey + layout.OverrideAttr: "33:44:0777:symlink"}
	_, err = Unpack(bytes.NewReader(build(t, dir("d"), forged, file("forged/x", ""))), stage(t), UnpackOptions{})
	require.ErrorIs(t, err, unix.ENOTDIR)
}

// TestSquashStandInsBelow: a link or FIFO is the one of the chain, whether either is real or
// stands for one.
func TestSquashStandInsBelow(t *testing.T) {
	requireSquash(t)
	lower, upper := t.TempDir(), t.TempDir()
	mine := fmt.Sprintf("%d:%d:", os.Geteuid(), os.Getegid())
	for _, root := range []string{lower, upper} {
		keepAs(t, root+"/theirs", "d", "33:44:0777:symlink")
		keepAs(t, root+"/pipe", "", "33:44:0640:pipe")
		keepAs(t, root+"/owner", "d", "33:44:0777:symlink")
		keepAs(t, root+"/target", "d", "33:44:0777:symlink")
		keepAs(t, root+"/text", "d", "33:44:0600")
		keepAs(t, root+"/socket", "", "33:44:0640:socket")
	}
	require.NoError(t, os.Symlink("d", lower+"/real"))
	keepAs(t, upper+"/real", "d", mine+"0777:symlink")
	require.NoError(t, os.Symlink("d", upper+"/unreal"))
	keepAs(t, lower+"/unreal", "d", mine+"0777:symlink")
	require.NoError(t, unix.Mkfifo(lower+"/real pipe", 0o640))
	keepAs(t, upper+"/real pipe", "", mine+"0640:pipe")
	keepAs(t, upper+"/owner", "d", "33:45:0777:symlink")
	keepAs(t, upper+"/target", "e", "33:44:0777:symlink")
	keepAs(t, upper+"/text", "d", "33:44:0600:symlink")
	setTimes(t, lower, "")
	setTimes(t, upper, "")
	below := belowOf(lower)
	_, _, data := pack(t, upper, PackOptions{Below: func(path string) (File, bool, error) {
		f, ok, err := below(path)
		if err == nil && ok {
			err = f.Unsquash()
		}
		return f, ok, err
	}})
	names, _ := headers(t, data)
	require.Equal(t, []string{"owner", "target", "text"}, names)

	keepAs(t, upper+"/owner", "", "33:45:0777:symlink")
	_, err := PackUpper(upper, stage(t), PackOptions{})
	require.ErrorContains(t, err, "no target")
	require.ErrorContains(t, err, `"owner"`)
}

// TestSquashStandInsCopied: a copy has links, FIFOs and sockets, since programs see it as it is;
// and what nobody has changed there is no difference.
func TestSquashStandInsCopied(t *testing.T) {
	requireSquash(t)
	chain, copied, upper := t.TempDir(), t.TempDir(), t.TempDir()
	keepAs(t, chain+"/link", "d", "33:44:0777:symlink")
	require.NoError(t, os.Link(chain+"/link", chain+"/link too"))
	keepAs(t, chain+"/pipe", "", "33:44:0444:pipe")
	keepAs(t, chain+"/other pipe", "", "33:44:0640:pipe")
	keepAs(t, chain+"/socket", "", "33:44:0640:socket")
	keepAs(t, chain+"/null", "", "33:44:0640:char-1-3")
	keepAs(t, chain+"/file", "data", "33:44:04750")
	setTimes(t, chain, "")
	require.NoError(t, CopyTree(Files(openDir(t, chain), ".", ""), copied))
	files := tree(t, copied)
	require.Equal(t, []any{"d", uint64(2)}, []any{files["link"].Link, files["link"].Nlink})
	require.EqualValues(t, unix.S_IFIFO|0o644, files["pipe"].Mode)
	require.EqualValues(t, unix.S_IFSOCK|0o640, files["socket"].Mode)
	require.EqualValues(t, unix.S_IFREG|0o640, files["null"].Mode)

	d := Difference{Below: belowOf(chain), Names: func(path string) (names []string, err error) {
		list, err := os.ReadDir(filepath.Join(chain, path))
		for _, e := range list {
			names = append(names, e.Name())
		}
		return names, err
	}}
	require.NoError(t, d.WriteUpper(copied, upper))
	require.Empty(t, namesBelow(t, upper))

	require.NoError(t, os.Chmod(copied+"/other pipe", 0o600))
	require.NoError(t, os.Remove(copied+"/link"))
	require.NoError(t, os.Symlink("e", copied+"/link"))
	require.NoError(t, d.WriteUpper(copied, upper))
	require.ElementsMatch(t, []string{"link", "link too", "other pipe"}, namesBelow(t, upper), "names that belonged together come together")
	target, err := os.Readlink(upper + "/link")
	require.NoError(t, err)
	require.Equal(t, "e", target)
}

func namesBelow(t *testing.T, root string) (names []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if path != root {
			names = append(names, filepath.Base(path))
		}
		return err
	}))
	return names
}

// TestStandInsAreNotBelieved where there are owners: anybody in a container could make one.
func TestStandInsAreNotBelieved(t *testing.T) {
	requireRoot(t)
	upper := t.TempDir()
	keepAs(t, upper+"/link", "/etc/shadow", "0:0:0777:symlink")
	keepAs(t, upper+"/pipe", "", "0:0:0777:pipe")
	keepAs(t, upper+"/socket", "", "0:0:0777:socket")
	dir, _, data := pack(t, upper, PackOptions{})
	_, h := headers(t, data)
	for _, name := range []string{"link", "pipe", "socket"} {
		require.EqualValues(t, tar.TypeReg, h[name].Typeflag, name)
		require.Empty(t, lstat(t, filepath.Join(dir, diffName, name)).Xattrs[layout.OverrideAttr], name)
	}
	copied := t.TempDir()
	require.NoError(t, CopyTree(Files(openDir(t, upper), ".", ""), copied))
	require.Equal(t, "/etc/shadow", lstat(t, copied+"/link").Data)
	var st unix.Stat_t
	require.NoError(t, at.Stat(at.CWD, upper+"/link", &st))
	_, isLink, err := newOwners().linkThere(at.CWD, upper+"/link", &st)
	require.NoError(t, err)
	require.False(t, isLink)
}
