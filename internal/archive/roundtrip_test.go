package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

func TestUnpackMakesWhatTheHeadersSay(t *testing.T) {
	requireRoot(t)
	suid := file("bin/su", "#!")
	suid.Mode, suid.Uid, suid.Gid = 0o4755, 0, 42
	attr := file("attr", "x")
	attr.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "a\x00b", "SCHILY.xattr.user.a%3Db": "c", "SCHILY.xattr.trusted.t": "d"}
	closed := dir("closed")
	closed.Mode, closed.Uid, closed.Gid = 0, 7, 8
	sticky := dir("tmp")
	sticky.Mode = 0o1777
	data := build(t, dir("./"), dir("bin"), suid, attr, closed, file("closed/in", "in"), sticky,
		symlink("link", "/etc/passwd"), hardlink("su2", "bin/su"),
		node("null", tar.TypeChar, 1, 3), node("disk", tar.TypeBlock, 300, 70000), node("pipe", tar.TypeFifo, 0, 0),
		file("empty", ""), file("big", strings.Repeat("0123456789abcdef", 1<<16)))
	dir, got := unpack(t, data)
	requireSameTar(t, dir, got, data)
	require.Equal(t, 14, got.Entries)
	require.EqualValues(t, 2+1+2+16<<16, got.Size)

	diff := filepath.Join(dir, diffName)
	su := lstat(t, diff+"/bin/su")
	require.Equal(t, stat{Mode: unix.S_IFREG | 0o4755, UID: 0, GID: 42, MTime: when, Size: 2, Data: "#!", Nlink: 2}, su)
	require.Equal(t, su, lstat(t, diff+"/su2"))
	require.Equal(t, map[string]string{"user.note": "a\x00b", "user.a=b": "c", "trusted.t": "d"}, lstat(t, diff+"/attr").Xattrs)
	require.Equal(t, stat{Mode: unix.S_IFDIR, UID: 7, GID: 8, MTime: when, Nlink: 2}, lstat(t, diff+"/closed"))
	require.EqualValues(t, unix.S_IFDIR|0o1777, lstat(t, diff+"/tmp").Mode)
	require.Equal(t, stat{Mode: unix.S_IFLNK | 0o777, MTime: when, Link: "/etc/passwd", Nlink: 1}, lstat(t, diff+"/link"))
	require.Equal(t, stat{Mode: unix.S_IFCHR | 0o600, MTime: when, Dev: unix.Mkdev(1, 3), Nlink: 1}, lstat(t, diff+"/null"))
	require.Equal(t, unix.Mkdev(300, 70000), lstat(t, diff+"/disk").Dev)
	require.EqualValues(t, unix.S_IFIFO|0o600, lstat(t, diff+"/pipe").Mode)
	require.Equal(t, when, lstat(t, diff).MTime)
}

func TestUnpackReadsCompressed(t *testing.T) {
	data := build(t, file("a", strings.Repeat("layer ", 1000)))
	var gz, zst bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	z, err := zstd.NewWriter(&zst)
	require.NoError(t, err)
	_, err = z.Write(data)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	for name, packed := range map[string][]byte{"gzip": gz.Bytes(), "zstd": zst.Bytes()} {
		t.Run(name, func(t *testing.T) {
			dir, got := unpack(t, packed)
			requireSameTar(t, dir, got, data)
			for cut := 0; cut < len(packed)-1; cut += 7 {
				_, err := Unpack(bytes.NewReader(packed[:cut]), stage(t), UnpackOptions{})
				require.Error(t, err, cut)
			}
			_, err := Unpack(bytes.NewReader(packed[:len(packed)-3]), stage(t), UnpackOptions{})
			require.ErrorIs(t, err, ErrTruncated)
		})
	}
}

// gnuTar runs tar(1) on dir and returns the archive.
func gnuTar(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("no tar program here")
	}
	cmd := exec.Command("tar", append([]string{"-C", dir, "-c"}, append(args, ".")...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	data, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return data
}

// sample makes a tree with everything that the format at hand can carry.
func sample(t *testing.T, long bool) string {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(root+"/a/b", 0o755))
	overwrite(t, root+"/a/b/file", "content")
	require.NoError(t, os.Link(root+"/a/b/file", root+"/a/link"))
	require.NoError(t, os.Symlink("b/file", root+"/a/sym"))
	require.NoError(t, unix.Mkfifo(root+"/pipe", 0o640))
	overwrite(t, root+"/empty", "")
	if long {
		name := root + "/" + strings.Repeat("n", 255)
		require.NoError(t, os.Mkdir(name, 0o700))
		overwrite(t, name+"/"+strings.Repeat("é", 127), "long")
		require.NoError(t, os.Symlink(strings.Repeat("t/", 150), root+"/longlink"))
		overwrite(t, root+"/bad\xffutf8", "x")
	}
	for path := range tree(t, root) {
		require.NoError(t, at.Utimes(at.CWD, filepath.Join(root, path), unix.Timespec{Sec: 1}, unix.Timespec{Sec: 1_500_000_000}))
	}
	return root
}

func TestRoundTripOfGNUTar(t *testing.T) {
	for _, format := range []string{"v7", "ustar", "oldgnu", "gnu", "pax"} {
		t.Run(format, func(t *testing.T) {
			root := sample(t, format != "v7" && format != "ustar")
			if format == "v7" {
				require.NoError(t, os.Remove(root+"/pipe"))
				require.NoError(t, at.Utimes(at.CWD, root, unix.Timespec{Sec: 1}, unix.Timespec{Sec: 1_500_000_000}))
			}
			data := gnuTar(t, root, "--format="+format)
			dir, got := unpack(t, data)
			requireSameTar(t, dir, got, data)
			require.Equal(t, tree(t, root), tree(t, dir+"/"+diffName))
		})
	}
}

func TestRoundTripOfSparseFiles(t *testing.T) {
	root := t.TempDir()
	f, err := os.Create(root + "/holes")
	require.NoError(t, err)
	for _, off := range []int64{1 << 20, 5<<20 + 100, 40 << 20} {
		_, err = f.WriteAt([]byte("island"), off)
		require.NoError(t, err)
	}
	require.NoError(t, f.Truncate(64<<20))
	require.NoError(t, f.Close())
	overwrite(t, root+"/plain", "after")
	for _, args := range [][]string{
		{"--format=pax"}, {"--format=gnu", "-S"}, {"--format=pax", "-S", "--sparse-version=0.0"},
		{"--format=pax", "-S", "--sparse-version=0.1"}, {"--format=pax", "-S", "--sparse-version=1.0"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			data := gnuTar(t, root, args...)
			require.Equal(t, slices.Contains(args, "-S"), len(data) < 1<<20, "tar stores it sparsely")
			dir, got := unpack(t, data)
			requireSameTar(t, dir, got, data)
			require.Equal(t, lstat(t, root+"/holes").Data, lstat(t, dir+"/diff/holes").Data)
			var st unix.Stat_t
			require.NoError(t, unix.Stat(dir+"/diff/holes", &st))
			require.Less(t, st.Blocks*512, int64(1<<20), "the holes were filled")
			require.Equal(t, "after", lstat(t, dir+"/diff/plain").Data)
		})
	}
}

func TestRoundTripOfXattrsByGNUTar(t *testing.T) {
	root := t.TempDir()
	overwrite(t, root+"/f", "x")
	require.NoError(t, at.Setxattr(at.CWD, root+"/f", "user.key", []byte("value\x00\n="), 0))
	data := gnuTar(t, root, "--format=pax", "--xattrs", "--xattrs-include=*")
	dir, got := unpack(t, data)
	requireSameTar(t, dir, got, data)
	require.Equal(t, map[string]string{"user.key": "value\x00\n="}, lstat(t, dir+"/diff/f").Xattrs)
}

func TestRoundTripOfOddArchives(t *testing.T) {
	odd := file("label", "payload of a type that archive/tar reads as a file")
	whiteout := file("dir/.wh.gone", "a whiteout should be empty")
	future := file("future", "x")
	future.ModTime = time.Unix(1<<33, 5)
	past := file("past", "x")
	past.ModTime = time.Unix(-5, 500)
	global := item{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "c0ffee"}}}
	plain := build(t, file("a", "1"))
	for name, data := range map[string][]byte{
		"nothing but an end":   make([]byte, 1024),
		"long padding":         append(build(t, file("a", "b")), make([]byte, 64<<10)...),
		"odd padding":          append(build(t, file("a", "b")), 0, 0, 0),
		"garbage after end":    append(build(t, file("a", "b")), "garbage"...),
		"global header":        build(t, global, file("a", "b")),
		"whiteout with data":   build(t, odd, dir("dir"), whiteout, file("dir/x", "x")),
		"times":                build(t, future, past),
		"AUFS bookkeeping":     build(t, dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "x"), file(".wh..wh.aufs", "y"), file("a", "b")),
		"no directory entries": build(t, file("a/b/c/d", "1"), file("a/b/e", "2"), file("z/y", "3")),
		"one zero block":       plain[:len(plain)-512],
	} {
		t.Run(name, func(t *testing.T) {
			dir, got := unpack(t, data)
			requireSameTar(t, dir, got, data)
		})
	}
}

func TestUnpackAllowsNoEnd(t *testing.T) {
	data := build(t, file("a", "b"), file("c", "d"))
	data = data[:len(data)-1024]
	_, err := Unpack(bytes.NewReader(data), stage(t), UnpackOptions{})
	require.ErrorIs(t, err, ErrTruncated)
	dir := stage(t)
	got, err := Unpack(bytes.NewReader(data), dir, UnpackOptions{AllowNoEnd: true})
	require.NoError(t, err)
	requireSameTar(t, dir, got, data)
}

// TestLaterEntryReplaces also checks that the tar comes back, although it has
// both and the view has one.
func TestLaterEntryReplaces(t *testing.T) {
	data := build(t,
		file("a", "first"), file("a", "second"), file("a", "third"),
		dir("d"), file("d/x", "below"), file("d/x", "below again"), file("d", "now a file"),
		file("f", "was a file"), dir("f"), file("f/y", "in it"),
		symlink("s", "nowhere"), dir("s"), file("s/z", "z"),
		dir("e"), file("e/deep", "kept"), symlink("e", "f"), file("e/through", "link"), file("e/y", "replaced through the link"),
		file("h", "linked"), hardlink("h2", "h"), file("h", "new"), hardlink("h", "h"))
	dir, got := unpack(t, data)
	requireSameTar(t, dir, got, data)
	view := map[string]string{}
	for path, s := range tree(t, dir+"/diff") {
		view[path] = s.Data + s.Link
	}
	require.Equal(t, map[string]string{
		".": "", "a": "third", "d": "now a file", "f": "", "f/y": "replaced through the link", "s": "", "s/z": "z",
		"e": "f", "f/through": "link", "h": "new", "h2": "linked",
	}, view)
}

func TestUnpackDeepAndLong(t *testing.T) {
	deep := strings.TrimSuffix(strings.Repeat("d/", 2000), "/")
	long := strings.Repeat("x", 255)
	data := build(t, file(deep+"/leaf", "leaf"), dir("d/d"), file(deep+"/"+long, "1"), file(long, "2"))
	before := openFDs(t)
	dir, got := unpack(t, data)
	requireSameTar(t, dir, got, data)
	require.Equal(t, before, openFDs(t))
	require.NoError(t, at.RemoveAll(at.CWD, dir))

	_, err := Unpack(bytes.NewReader(build(t, file(long+"x", "1"))), stage(t), UnpackOptions{})
	require.ErrorIs(t, err, unix.ENAMETOOLONG)
	require.ErrorContains(t, err, "256 bytes")
}

func TestWriteLayerTellsDamage(t *testing.T) {
	data := build(t, file("a", "content"), file("b", "other"))
	for name, damage := range map[string]func(dir string){
		"content": func(dir string) { overwrite(t, dir+"/diff/a", "CONTENT") },
		"length":  func(dir string) { overwrite(t, dir+"/diff/a", "shorter") },
		"absent":  func(dir string) { require.NoError(t, os.Remove(dir+"/diff/a")) },
		"pipe": func(dir string) {
			require.NoError(t, os.Remove(dir+"/diff/a"))
			require.NoError(t, unix.Mkfifo(dir+"/diff/a", 0o600))
		},
		"index": func(dir string) {
			index, err := os.ReadFile(dir + "/tar-split.gz")
			require.NoError(t, err)
			overwrite(t, dir+"/tar-split.gz", string(index[:len(index)-30]))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, got := unpack(t, data)
			damage(dir)
			require.ErrorIs(t, WriteLayer(&bytes.Buffer{}, dir, got.DiffID), ErrDigest)
		})
	}
	dir, _ := unpack(t, data)
	_, other := unpack(t, build(t, file("z", "")))
	require.ErrorIs(t, WriteLayer(&bytes.Buffer{}, dir, other.DiffID), ErrDigest)
}
