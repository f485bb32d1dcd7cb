package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/whiteout"
)

// canary is a piece of the host around the directory that is unpacked into.
type canary struct {
	root, layer string
	before      map[string]stat
}

func newCanary(t testing.TB) *canary {
	t.Helper()
	c := &canary{root: t.TempDir()}
	c.layer = c.root + "/store/layer"
	require.NoError(t, os.MkdirAll(c.layer, 0o755))
	require.NoError(t, os.Mkdir(c.root+"/victim", 0o750))
	overwrite(t, c.root+"/victim/passwd", "root:x:0:0")
	require.NoError(t, os.Chmod(c.root+"/victim/passwd", 0o640))
	overwrite(t, c.root+"/store/config", "untouched")
	require.NoError(t, os.Symlink("victim", c.root+"/alias"))
	c.before = c.outside(t)
	return c
}

// outside is the state of everything but the layer directory.
func (c *canary) outside(t testing.TB) map[string]stat {
	t.Helper()
	list := tree(t, c.root)
	for path := range list {
		if path == "store/layer" || strings.HasPrefix(path, "store/layer/") {
			delete(list, path)
		}
	}
	return list
}

func (c *canary) requireUnchanged(t testing.TB) {
	t.Helper()
	require.Equal(t, c.before, c.outside(t), "something outside the layer changed")
}

// attacks are archives that try to leave the layer. %V in a name or a target is
// the absolute path of the victim's directory. An empty want means that the
// archive is harmless inside and must unpack.
var attacks = map[string]struct {
	items []item
	want  string
}{
	"dot dot":                    {[]item{file("../victim/passwd", "x")}, `leads out of the layer with ".."`},
	"dot dot inside":             {[]item{file("a/../../../victim/passwd", "x")}, `leads out of the layer`},
	"dot dot that stays":         {[]item{file("a/../b", "x")}, `leads out of the layer`},
	"dot dot at the end":         {[]item{dir("a/..")}, `leads out of the layer`},
	"absolute":                   {[]item{file("%V/passwd", "x")}, ""},
	"absolute dot dot":           {[]item{file("/../victim/passwd", "x")}, `leads out of the layer`},
	"symlinked parent":           {[]item{symlink("l", "%V"), file("l/passwd", "x")}, ""},
	"relative symlinked parent":  {[]item{symlink("l", "../../../victim"), file("l/passwd", "x")}, ""},
	"chain of symlinks":          {[]item{symlink("a", ".."), symlink("b", "a/.."), symlink("c", "b/../.."), file("c/victim/passwd", "x")}, ""},
	"symlink as the file":        {[]item{symlink("l", "%V/passwd"), file("l", "x")}, ""},
	"dir over symlink":           {[]item{symlink("l", "%V"), dir("l"), file("l/passwd", "x")}, ""},
	"mode through symlink":       {[]item{symlink("l", "%V"), dir("l/.")}, ""},
	"symlink to proc":            {[]item{symlink("l", "/proc/self/cwd"), file("l/passwd", "x")}, ""},
	"link loop":                  {[]item{symlink("a", "b"), symlink("b", "a"), file("a/x", "x")}, "more than 40 symbolic links"},
	"link to itself":             {[]item{symlink("a", "a/a"), file("a/x", "x")}, "more than 40 symbolic links"},
	"hard link outside":          {[]item{hardlink("h", "../victim/passwd")}, `leads out of the layer`},
	"hard link absolute":         {[]item{hardlink("h", "%V/passwd"), file("h", "x")}, "is not in the archive before it"},
	"hard link through symlink":  {[]item{symlink("l", "%V"), hardlink("h", "l/passwd"), file("h", "x")}, "is not in the archive before it"},
	"hard link to symlink":       {[]item{symlink("l", "%V/passwd"), hardlink("h", "l"), file("h", "x")}, ""},
	"hard link to nowhere":       {[]item{hardlink("h", "nowhere")}, `hard link to "nowhere", which is not in the archive before it`},
	"hard link to later":         {[]item{hardlink("h", "f"), file("f", "x")}, "is not in the archive before it"},
	"hard link to directory":     {[]item{dir("d"), hardlink("h", "d")}, "hard link to the directory"},
	"hard link to root":          {[]item{hardlink("h", "./")}, "is not in the archive before it"},
	"hard link to nothing":       {[]item{{Header: tar.Header{Typeflag: tar.TypeLink, Name: "h"}}}, "is not in the archive before it"},
	"hard link to whiteout":      {[]item{file(".wh.w", ""), hardlink("h", "w")}, "is not in the archive before it"},
	"hard link to mark":          {[]item{file(".wh.w", ""), hardlink("h", ".wh.w")}, "is not in the archive before it"},
	"hard link below file":       {[]item{file("f", ""), hardlink("h", "f/x")}, "is not in the archive before it"},
	"root as symlink":            {[]item{symlink(".", "%V"), file("passwd", "x")}, "must be a directory"},
	"root as symlink, spelled":   {[]item{symlink("./.", "%V"), file("./passwd", "x")}, "must be a directory"},
	"root as file":               {[]item{file(".", "x")}, "must be a directory"},
	"name of 256 bytes":          {[]item{file(strings.Repeat("n", 256), "x")}, "256 bytes"},
	"name of a megabyte":         {[]item{dir("x"), {Header: tar.Header{Typeflag: tar.TypeDir, Name: strings.Repeat("n/", 400_000), Format: tar.FormatGNU}}}, "800000 bytes"},
	"root as hard link":          {[]item{file("f", "x"), hardlink("/", "f")}, "must be a directory"},
	"empty name":                 {[]item{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "", Format: tar.FormatUSTAR}}}, "must be a directory"},
	"file as parent":             {[]item{file("f", "x"), file("f/x", "x")}, "is not a directory"},
	"device as parent":           {[]item{node("n", tar.TypeFifo, 0, 0), file("n/x", "x")}, "is not a directory"},
	"whiteout of nothing":        {[]item{file(".wh.", "")}, "impossible name"},
	"whiteout of dot":            {[]item{file(".wh..", "")}, "impossible name"},
	"whiteout of dot dot":        {[]item{file(".wh...", "")}, "impossible name"},
	"whiteout of dot dot below":  {[]item{dir("a"), file("a/.wh...", "")}, "impossible name"},
	"whiteout through symlink":   {[]item{symlink("a", "%V"), file("a/.wh.passwd", "")}, "a whiteout in the symbolic link"},
	"opaque through symlink":     {[]item{symlink("a", "%V"), file("a/.wh..wh..opq", "")}, "a whiteout in the symbolic link"},
	"whiteout through deep link": {[]item{symlink("a", "../../../"), file("a/victim/.wh.passwd", "")}, "a whiteout in the symbolic link"},
	"below a whiteout":           {[]item{dir(".wh.d"), file(".wh.d/x", "")}, "below the whiteout"},
	"below an opaque mark":       {[]item{file(".wh..wh..opq/x", "")}, "below the whiteout"},
	"below impossible":           {[]item{file(".wh.../x", "")}, "impossible name"},
	"symlink to nothing":         {[]item{{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "l"}}}, "symbolic link to nothing"},
	"negative owner":             {[]item{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "f", Uid: -1, Format: tar.FormatGNU}}}, "no owner"},
	"huge owner":                 {[]item{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "f", Gid: 1 << 32, Format: tar.FormatGNU}}}, "no owner"},
	"negative device":            {[]item{{Header: tar.Header{Typeflag: tar.TypeChar, Name: "f", Devmajor: -5, Format: tar.FormatGNU}}}, "no device"},
	"unknown type":               {[]item{{Header: tar.Header{Typeflag: 'V', Name: "label"}}}, "unknown type"},
	"stolen bookkeeping":         {[]item{hardlink("h", "../tar-split.gz")}, "leads out of the layer"},
	"kept is not reachable":      {[]item{file("a", "1"), file("a", "2"), file("../kept/0", "3")}, "leads out of the layer"},
}

// aim puts the victim's path into the items.
func (c *canary) aim(items []item) []item {
	aimed := make([]item, len(items))
	for i, it := range items {
		it.Name = strings.ReplaceAll(it.Name, "%V", c.root+"/victim")
		it.Linkname = strings.ReplaceAll(it.Linkname, "%V", c.root+"/victim")
		aimed[i] = it
	}
	return aimed
}

func TestAttacks(t *testing.T) {
	for name, attack := range attacks {
		for _, dialect := range []whiteout.Dialect{whiteout.Auto, whiteout.OCI} {
			t.Run(name+" "+dialect.String(), func(t *testing.T) {
				c := newCanary(t)
				data := build(t, c.aim(attack.items)...)
				before := openFDs(t)
				got, err := Unpack(bytes.NewReader(data), c.layer, UnpackOptions{Whiteout: dialect})
				c.requireUnchanged(t)
				require.Equal(t, before, openFDs(t), "descriptors leak")
				if attack.want != "" {
					require.ErrorContains(t, err, attack.want)
					require.ErrorContains(t, err, "entry ")
					require.Less(t, len(err.Error()), 2000)
					return
				}
				require.NoError(t, err)
				requireSameTar(t, c.layer, got, data)
				c.requireUnchanged(t)
			})
		}
	}
}

// TestAttacksOverTwoLayers plants in one layer and writes in the next: each
// layer has a directory of its own, so the link is not even there.
func TestAttacksOverTwoLayers(t *testing.T) {
	for name, attack := range attacks {
		if len(attack.items) < 2 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			c := newCanary(t)
			for n, it := range c.aim(attack.items) {
				dir := fmt.Sprintf("%s/%d", c.layer, n)
				require.NoError(t, os.Mkdir(dir, 0o700))
				_, err := Unpack(bytes.NewReader(build(t, it)), dir, UnpackOptions{})
				if err != nil {
					require.True(t, errors.Is(err, ErrUnsafe) || errors.Is(err, unix.ENOTDIR), err.Error())
				}
				c.requireUnchanged(t)
			}
		})
	}
}

// TestLinksStayInside shows where the files of the harmless ones are.
func TestLinksStayInside(t *testing.T) {
	data := build(t, dir("usr/lib"), symlink("lib", "/usr/lib"), file("lib/so", "1"), symlink("up", "../../../usr"), file("up/bin", "2"),
		symlink("dangling", "new/place"), file("dangling/x", "3"), symlink("usr/rel", "../usr/lib/../lib"), file("usr/rel/b", "4"))
	layer, got := unpack(t, data)
	requireSameTar(t, layer, got, data)
	for path, want := range map[string]string{"usr/lib/so": "1", "usr/bin": "2", "new/place/x": "3", "usr/lib/b": "4"} {
		require.Equal(t, want, lstat(t, layer+"/diff/"+path).Data, path)
	}
}

// TestPrivateAttributesAreNotTaken: a layer must not speak for the union.
func TestPrivateAttributesAreNotTaken(t *testing.T) {
	f := dir("d")
	f.PAXRecords = map[string]string{}
	for _, attr := range []string{"trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque", "user.varve.x", layout.OverrideAttr} {
		f.PAXRecords["SCHILY.xattr."+attr] = "y"
	}
	f.PAXRecords["SCHILY.xattr.user.mine"] = "kept"
	if newOwners().squash {
		f.Uid, f.Gid = os.Geteuid(), os.Getegid()
	}
	data := build(t, f)
	layer, got := unpack(t, data)
	requireSameTar(t, layer, got, data)
	require.Equal(t, map[string]string{"user.mine": "kept"}, lstat(t, layer+"/diff/d").Xattrs)
}

func TestTruncatedEverywhere(t *testing.T) {
	var long bytes.Buffer
	w := tar.NewWriter(&long)
	for _, it := range []item{dir("d"), file("d/"+strings.Repeat("n", 200), strings.Repeat("x", 3000)), symlink("s", strings.Repeat("t", 200)), file("end", "e")} {
		it.Format, it.ModTime = tar.FormatPAX, when
		require.NoError(t, w.WriteHeader(&it.Header))
		_, err := w.Write([]byte(it.data))
		require.NoError(t, err)
	}
	require.NoError(t, w.Flush())
	data := long.Bytes() // without its end mark
	before := openFDs(t)
	layer := stage(t)
	for cut := 0; cut <= len(data); cut += 61 {
		_, err := Unpack(bytes.NewReader(data[:cut]), layer, UnpackOptions{})
		require.Error(t, err, cut)
		require.True(t, errors.Is(err, ErrTruncated) || cut == 0 && errors.Is(err, ErrNotTar), "cut at %d: %v", cut, err)
		require.NoError(t, os.RemoveAll(layer))
		require.NoError(t, os.Mkdir(layer, 0o700))
	}
	require.Equal(t, before, openFDs(t))
}

func TestNotATar(t *testing.T) {
	for name, data := range map[string]string{
		"empty": "", "text": strings.Repeat("this is no tar, but a text of some length. ", 40), "short": "x",
		"gzip of text": zipped(t, []byte(strings.Repeat("no tar ", 200))),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Unpack(strings.NewReader(data), stage(t), UnpackOptions{})
			require.Error(t, err)
			require.True(t, errors.Is(err, ErrNotTar) || name == "short" && errors.Is(err, ErrTruncated), err.Error())
		})
	}
	data := build(t, file("good", "x"), file("bad", "y"))
	copy(data[2048:], "damaged")
	_, err := Unpack(bytes.NewReader(data), stage(t), UnpackOptions{})
	require.ErrorIs(t, err, ErrNotTar)
	require.ErrorContains(t, err, `"good"`)
}

func zipped(t testing.TB, data []byte) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.String()
}

// zeroReader gives n zero bytes after head.
type zeroReader struct {
	head *bytes.Reader
	left int64
}

func (z *zeroReader) Read(p []byte) (int, error) {
	if z.head.Len() > 0 {
		return z.head.Read(p)
	}
	if z.left == 0 {
		return 0, fmt.Errorf("read to the end")
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

func TestBombs(t *testing.T) {
	big := tar.Header{Typeflag: tar.TypeReg, Name: "big", Size: 1 << 40, Mode: 0o600, Format: tar.FormatGNU, ModTime: when}
	var head bytes.Buffer
	require.NoError(t, tar.NewWriter(&head).WriteHeader(&big))
	small := UnpackOptions{MaxBytes: 16 << 20, MaxEntries: 100}

	t.Run("large file", func(t *testing.T) {
		_, err := Unpack(bytes.NewReader(head.Bytes()), stage(t), small)
		require.ErrorIs(t, err, ErrTooBig)
		require.ErrorContains(t, err, `"big"`)
	})
	t.Run("endless end", func(t *testing.T) {
		in := &zeroReader{head: bytes.NewReader(build(t, file("a", "b"))), left: 1 << 40}
		_, err := Unpack(in, stage(t), small)
		require.ErrorIs(t, err, ErrTooBig)
		require.Greater(t, in.left, int64(1<<40-64<<20), "it went on reading")
	})
	t.Run("gzip of zeros", func(t *testing.T) {
		_, err := Unpack(strings.NewReader(zipped(t, append(build(t, file("a", "b")), make([]byte, 32<<20)...))), stage(t), small)
		require.ErrorIs(t, err, ErrTooBig)
	})
	t.Run("sparse map", func(t *testing.T) {
		data := sparseBomb(t, 1<<62)
		_, err := Unpack(bytes.NewReader(data), stage(t), UnpackOptions{})
		require.ErrorIs(t, err, ErrTooBig)
		dir := stage(t)
		data = sparseBomb(t, 1<<33)
		got, err := Unpack(bytes.NewReader(data), dir, UnpackOptions{})
		require.NoError(t, err)
		var st unix.Stat_t
		require.NoError(t, unix.Stat(dir+"/diff/sparse", &st))
		require.EqualValues(t, 1<<33, st.Size)
		require.Less(t, st.Blocks, int64(1000))
		requireSameTar(t, dir, got, data)
	})
	t.Run("entries", func(t *testing.T) {
		var items []item
		for n := range 101 {
			items = append(items, file(fmt.Sprint(n), ""))
		}
		_, err := Unpack(bytes.NewReader(build(t, items...)), stage(t), small)
		require.ErrorIs(t, err, ErrTooBig)
		require.ErrorContains(t, err, "more than 100 entries")
	})
	t.Run("zstd window", func(t *testing.T) {
		_, err := Unpack(bytes.NewReader(wideWindow()), stage(t), small)
		require.Error(t, err)
		require.NotErrorIs(t, err, ErrNotTar)
	})
}

// wideWindow is a frame of zstd that wants a window of 256 MiB, half of what the library
// gives when it is not told.
func wideWindow() []byte {
	frame := binary.LittleEndian.AppendUint32(nil, 0xFD2FB528)
	frame = append(frame, 0x00, 0x90) // no content size; the window
	return append(frame, 0x01, 0x00, 0x00)
}

// sparseBomb is a file of nothing but a hole.
func sparseBomb(t testing.TB, size int64) []byte {
	t.Helper()
	// archive/tar does not write these records, so a placeholder is renamed.
	records := map[string]string{"GNU_sparse_major": "0", "GNU_sparse_minor": "1", "GNU_sparse_numblocks": "1", "GNU_sparse_map": fmt.Sprintf("%d,0", size), "GNU_sparse_size": fmt.Sprint(size)}
	data := build(t, item{Header: tar.Header{Typeflag: tar.TypeReg, Name: "sparse", PAXRecords: records}})
	return bytes.ReplaceAll(data, []byte("GNU_sparse_"), []byte("GNU.sparse."))
}

// TestManyHeadersNeedLittleMemory: any number of long names may stand before one
// file.
func TestManyHeadersNeedLittleMemory(t *testing.T) {
	var b bytes.Buffer
	hdr := tar.Header{Typeflag: tar.TypeReg, Name: "x/" + strings.Repeat("n", 800<<10), Format: tar.FormatGNU}
	require.NoError(t, tar.NewWriter(&b).WriteHeader(&hdr))
	long := b.Bytes()[:b.Len()-512]
	last := file("a/"+strings.Repeat("b", 200), "b")
	last.Format = tar.FormatGNU
	data := append(bytes.Repeat(long, 200), build(t, last)...)
	packed := zipped(t, data)
	data = nil
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	peak := make(chan uint64)
	stop := make(chan struct{})
	go func() {
		most := uint64(0)
		for {
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(5 * time.Millisecond):
				runtime.ReadMemStats(&after)
				most = max(most, after.HeapInuse)
			}
		}
	}()
	dir := stage(t)
	_, err := Unpack(strings.NewReader(packed), dir, UnpackOptions{})
	close(stop)
	most := <-peak
	require.NoError(t, err)
	require.Less(t, most, before.HeapInuse+64<<20)
	require.FileExists(t, filepath.Join(dir, "diff", last.Name))
}

func TestManyEntriesInOneDirectory(t *testing.T) {
	const count = 20_000
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for n := range count {
		require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d/%d", n), Mode: 0o600}))
	}
	require.NoError(t, w.Close())
	dir, got := unpack(t, b.Bytes())
	require.Equal(t, count, got.Entries)
	list, err := os.ReadDir(dir + "/diff/d")
	require.NoError(t, err)
	require.Len(t, list, count)
}
