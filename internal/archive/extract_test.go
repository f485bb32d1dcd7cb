package archive

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// extract runs Extract on the directory at path.
func extract(t testing.TB, path string, data []byte, opt ExtractOptions) (Extracted, error) {
	t.Helper()
	dir, err := at.OpenRoot(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(dir)) }()
	return Extract(bytes.NewReader(data), dir, opt)
}

// packFiles is the tar of a file or directory.
func packFiles(t testing.TB, path string) []byte {
	t.Helper()
	dir, err := at.OpenRoot(filepath.Dir(path))
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(dir)) }()
	var b bytes.Buffer
	require.NoError(t, WriteTree(&b, Files(dir, filepath.Base(path), "")))
	return b.Bytes()
}

// TestExtractAttacks: no archive reaches out of the directory, neither alone nor when
// what it plants is there before it is unpacked again.
func TestExtractAttacks(t *testing.T) {
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			c := newCanary(t)
			data := build(t, c.aim(attack.items)...)
			before := openFDs(t)
			for range 2 {
				_, err := extract(t, c.layer, data, ExtractOptions{Owner: Attempted, Trusted: true})
				c.requireUnchanged(t)
				if err != nil {
					require.Less(t, len(err.Error()), 2000)
				}
			}
			for _, it := range c.aim(attack.items) {
				_, _ = extract(t, c.layer, build(t, it), ExtractOptions{}) // refused or harmless
				c.requireUnchanged(t)
			}
			require.Equal(t, before, openFDs(t), "descriptors leak")
		})
	}
}

// TestExtractRefusesPlantedLinks: a symbolic link that is there already is not followed,
// and not taken for a directory.
func TestExtractRefusesPlantedLinks(t *testing.T) {
	c := newCanary(t)
	require.NoError(t, os.Symlink(c.root+"/victim", c.layer+"/l"))
	require.NoError(t, os.Symlink(c.root+"/victim/passwd", c.layer+"/f"))
	_, err := extract(t, c.layer, build(t, file("l/passwd", "x")), ExtractOptions{})
	require.ErrorIs(t, err, ErrUnsafe)
	_, err = extract(t, c.layer, build(t, dir("l")), ExtractOptions{})
	require.ErrorContains(t, err, `cannot overwrite non-directory "l" with directory`)
	_, err = extract(t, c.layer, build(t, hardlink("h", "l/passwd")), ExtractOptions{})
	require.Error(t, err)
	_, err = extract(t, c.layer, build(t, file("f", "x")), ExtractOptions{})
	require.NoError(t, err)
	require.Equal(t, "x", lstat(t, c.layer+"/f").Data, "the link is replaced")
	c.requireUnchanged(t)
}

// TestExtractMakesNewFiles: what somebody puts in the place of a name, when that has just
// been cleared, is not written to. Each guard by itself, which a race would rarely need.
func TestExtractMakesNewFiles(t *testing.T) {
	c := newCanary(t)
	victim := c.root + "/victim/passwd"
	require.NoError(t, os.Symlink(victim, c.layer+"/link"))
	overwrite(t, c.layer+"/file", "as it was")
	require.NoError(t, unix.Mkfifo(c.layer+"/fifo", 0o600))
	top, err := at.OpenRoot(c.layer)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(top)) }()
	for name, want := range map[string]error{"link": unix.ELOOP, "fifo": unix.ENXIO} {
		x := &extractor{root: top, tar: tar.NewReader(bytes.NewReader(build(t, file(name, "x")))), buf: make([]byte, chunkSize)}
		hdr, err := x.tar.Next()
		require.NoError(t, err)
		require.ErrorIs(t, x.regular(hdr, top, name, &attrs{}), unix.EEXIST, name)
		require.ErrorIs(t, x.regular(hdr, top, "file", &attrs{}), unix.EEXIST)
		require.ErrorIs(t, x.refill(hdr, top, name), want, name)
	}
	require.Equal(t, "as it was", lstat(t, c.layer+"/file").Data)
	c.requireUnchanged(t)
}

// TestExtractRules: what takes the place of what, and what becomes of attributes.
func TestExtractRules(t *testing.T) {
	for name, c := range map[string]struct {
		before, items []item
		opt           ExtractOptions
		want          map[string]string // data, or a link behind ->
		err           string
	}{
		"a new name":               {items: []item{file(".", "x")}, opt: ExtractOptions{Under: "new"}, want: map[string]string{"new": "x"}},
		"a new name for a tree":    {items: []item{dir("."), file("a", "x")}, opt: ExtractOptions{Under: "new"}, want: map[string]string{"new/a": "x"}},
		"a file for a file":        {before: []item{file("f", "long before")}, items: []item{file("f", "x")}, want: map[string]string{"f": "x"}},
		"a link for a file":        {before: []item{file("f", "x")}, items: []item{symlink("f", "y")}, want: map[string]string{"f": "->y"}},
		"a file for a directory":   {before: []item{dir("f")}, items: []item{file("f", "x")}, err: `cannot overwrite directory "f" with non-directory`},
		"a link for a directory":   {before: []item{dir("f")}, items: []item{symlink("f", "x")}, err: `cannot overwrite directory "f" with non-directory`},
		"a directory for a file":   {before: []item{file("f", "x")}, items: []item{dir("f")}, err: `cannot overwrite non-directory "f" with directory`},
		"beside what is there":     {before: []item{dir("d"), file("d/a", "1")}, items: []item{dir("d"), file("d/b", "2")}, want: map[string]string{"d/a": "1", "d/b": "2"}},
		"missing parents are made": {items: []item{file("a/b/c", "x")}, want: map[string]string{"a/b/c": "x"}},
		"a hard link is one file":  {items: []item{file("a", "x"), hardlink("b", "a")}, opt: ExtractOptions{Under: "in"}, want: map[string]string{"in/a": "x", "in/b": "x"}},
		"a file is no root":        {items: []item{file(".", "x")}, err: "the root of the archive is no directory"},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			if c.before != nil {
				_, err := extract(t, path, build(t, c.before...), ExtractOptions{})
				require.NoError(t, err)
			}
			_, err := extract(t, path, build(t, c.items...), c.opt)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			for name, want := range c.want {
				s := lstat(t, filepath.Join(path, name))
				if link, is := strings.CutPrefix(want, "->"); is {
					require.Equal(t, link, s.Link)
				} else {
					require.Equal(t, want, s.Data)
				}
			}
		})
	}
}

// mapBomb is an archive of a sparse file with a map of any number of entries (CVE-2025-58183).
type mapBomb struct {
	head *bytes.Reader
	read int64
}

func newMapBomb(t *testing.T) *mapBomb {
	// archive/tar does not write these records, so a placeholder is renamed.
	records := map[string]string{"GNU_sparse_major": "1", "GNU_sparse_minor": "0", "GNU_sparse_name": "f", "GNU_sparse_realsize": "1"}
	var b bytes.Buffer
	require.NoError(t, tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 1 << 40, Mode: 0o600, PAXRecords: records}))
	b.WriteString("1000000000000\n")
	return &mapBomb{head: bytes.NewReader(bytes.ReplaceAll(b.Bytes(), []byte("GNU_sparse_"), []byte("GNU.sparse.")))}
}

func (m *mapBomb) Read(p []byte) (int, error) {
	if m.head.Len() > 0 {
		return m.head.Read(p)
	}
	m.read += int64(len(p))
	for i := range p {
		p[i] = "0\n"[i%2]
	}
	return len(p), nil
}

// TestExtractBombs: what a small archive may want is refused, or needs little.
func TestExtractBombs(t *testing.T) {
	path := t.TempDir()
	_, err := extract(t, path, sparseBomb(t, 1<<30), ExtractOptions{})
	require.NoError(t, err)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path+"/sparse", &st))
	require.EqualValues(t, 1<<30, st.Size)
	require.Less(t, st.Blocks, int64(1000))

	_, err = extract(t, path, wideWindow(), ExtractOptions{})
	require.ErrorContains(t, err, "window")

	dir, err := at.OpenRoot(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(dir)) }()
	bomb := newMapBomb(t)
	_, err = Extract(bomb, dir, ExtractOptions{})
	require.Error(t, err)
	require.Less(t, bomb.read, int64(16<<20), "bytes that were read of the map")
	require.NoFileExists(t, path+"/f")
}

// TestExtractRights: an archive that is not trusted gives no rights and makes no devices.
func TestExtractRights(t *testing.T) {
	requireRoot(t)
	setuid := file("f", "x")
	setuid.Mode, setuid.Uid, setuid.Gid = 0o6755, 12, 34
	setuid.PAXRecords = map[string]string{xattrKey + "security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", xattrKey + "user.a": "b"}
	data := build(t, setuid, node("null", tar.TypeChar, 1, 3))
	path := t.TempDir()
	out, err := extract(t, path, data, ExtractOptions{})
	require.NoError(t, err)
	s := lstat(t, path+"/f")
	require.EqualValues(t, unix.S_IFREG|0o755, s.Mode)
	require.Equal(t, map[string]string{"user.a": "b"}, s.Xattrs)
	require.Zero(t, s.UID)
	require.Equal(t, 1, out.Omitted)
	require.NoFileExists(t, path+"/null")

	out, err = extract(t, path, data, ExtractOptions{Owner: Kept, Trusted: true})
	require.NoError(t, err)
	s = lstat(t, path+"/f")
	require.EqualValues(t, unix.S_IFREG|0o6755, s.Mode)
	require.EqualValues(t, 12, s.UID)
	require.EqualValues(t, 34, s.GID)
	require.Contains(t, s.Xattrs, "security.capability")
	require.Zero(t, out.Omitted)
	require.Equal(t, unix.Mkdev(1, 3), lstat(t, path+"/null").Dev)
}

// TestFilesRoundTrip: a tree that is packed and unpacked is the same.
func TestFilesRoundTrip(t *testing.T) {
	requireRoot(t)
	path := t.TempDir()
	deep := strings.Repeat("d/", 700)
	_, err := extract(t, path, build(t, dir("a"), file("a/f", "data"), file("a/big", strings.Repeat("x", 100_000)+strings.Repeat("\x00", 200_000)),
		symlink("a/l", "/nowhere"), hardlink("a/h", "a/f"), node("a/fifo", tar.TypeFifo, 0, 0), node("a/dev", tar.TypeChar, 1, 3),
		dir("a/empty"), file("a/"+deep+"f", "deep")), ExtractOptions{Owner: Kept, Trusted: true})
	require.NoError(t, err)
	_, err = extract(t, path, packFiles(t, path+"/a"), ExtractOptions{Under: "b", Owner: Kept, Trusted: true})
	require.NoError(t, err)
	require.Equal(t, tree(t, path+"/a"), tree(t, path+"/b"))
}

// races is how many rounds the tests of races have: VARVE_RACES, or some.
func races(t testing.TB) int {
	t.Helper()
	text := os.Getenv("VARVE_RACES")
	if text == "" {
		return 300
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

// swap exchanges two names again and again, until it is stopped.
func swap(t testing.TB, a, b string) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE) // it may be removed at this moment
			}
		}
	})
	return func() { close(done); running.Wait() }
}

// TestFilesRace: while a directory and a file are exchanged with symbolic links that lead
// out, nothing of what is outside is read.
func TestFilesRace(t *testing.T) {
	path := t.TempDir()
	require.NoError(t, os.MkdirAll(path+"/in/d/sub", 0o755))
	require.NoError(t, os.Mkdir(path+"/out", 0o755))
	overwrite(t, path+"/out/f", "secret")
	overwrite(t, path+"/in/d/sub/f", "inside")
	overwrite(t, path+"/in/d/g", "inside")
	require.NoError(t, os.Symlink(path+"/out", path+"/in/d/link"))
	require.NoError(t, os.Symlink(path+"/out/f", path+"/in/d/glink"))
	defer swap(t, path+"/in/d/sub", path+"/in/d/link")()
	defer swap(t, path+"/in/d/g", path+"/in/d/glink")()
	dir, err := at.OpenRoot(path + "/in")
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(dir)) }()
	for range races(t) {
		var b bytes.Buffer
		if err := WriteTree(&b, Files(dir, "d", "")); err != nil {
			require.ErrorIs(t, err, errOther)
		}
		require.NotContains(t, b.String(), "secret")
	}
}

// TestExtractRace: while the directory that is filled is exchanged with a symbolic link that
// leads out, nothing outside is written. The guards of a single name are in
// TestExtractMakesNewFiles.
func TestExtractRace(t *testing.T) {
	c := newCanary(t)
	require.NoError(t, os.Mkdir(c.layer+"/d", 0o755))
	require.NoError(t, os.Symlink(c.root+"/victim", c.layer+"/l"))
	data := build(t, file("d/passwd", "x"), dir("d"), file("d/new", "x"), hardlink("d/hard", "d/passwd"), symlink("d/sym", "x"))
	stop := swap(t, c.layer+"/d", c.layer+"/l")
	for range races(t) {
		_, _ = extract(t, c.layer, data, ExtractOptions{Owner: Attempted}) // refused or not, as it happens
	}
	stop()
	c.requireUnchanged(t)
}
