package index

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var sampleIDs = []string{"sha256:top", "sha256:middle", "sha256:lowest"}

// sample is the file of an index that has something of everything.
func sample(t testing.TB) []byte {
	t.Helper()
	var layers []Layer
	for i, id := range sampleIDs {
		root := filepath.Join(t.TempDir(), fmt.Sprint(i))
		layers = append(layers, Layer{Path: root, ID: id})
		file := func(name string) {
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(name), 0o644))
		}
		file("both/a")
		file(fmt.Sprintf("both/from%d", i))
		if i > 0 {
			file(fmt.Sprintf("was/here/deep/%d", i))
			continue
		}
		file("here/now")
		require.NoError(t, unix.Setxattr(filepath.Join(root, "here"), "user.overlay.redirect", []byte("/was/here"), 0))
		require.NoError(t, unix.Setxattr(filepath.Join(root, "both"), "user.test", []byte("value"), 0))
		require.NoError(t, os.Link(filepath.Join(root, "both/a"), filepath.Join(root, "here/another")))
		require.NoError(t, os.Symlink("both/a", filepath.Join(root, "link")))
		require.NoError(t, unix.Mkfifo(filepath.Join(root, "fifo"), 0o600))
		for name, redirect := range map[string]string{"both/meta": "/was/here/deep/1", "lost": "no such"} {
			file(name)
			require.NoError(t, os.Truncate(filepath.Join(root, name), int64(len("was/here/deep/1")))) // the size of the data
			require.NoError(t, unix.Setxattr(filepath.Join(root, name), "user.overlay.metacopy", nil, 0))
			require.NoError(t, unix.Setxattr(filepath.Join(root, name), "user.overlay.redirect", []byte(redirect), 0))
		}
	}
	path := filepath.Join(t.TempDir(), "index")
	require.NoError(t, Build(path, layers))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}

// seal makes what is before the sections fit data.
func seal(data []byte) []byte {
	if len(data) >= headerSize {
		copy(data, magic)
		le.PutUint32(data[atVersion:], version)
		le.PutUint64(data[atSize:], uint64(len(data)))
		le.PutUint32(data[atChecksum:], checksum(data))
	}
	return data
}

// useAll calls every method on every file, and fails where they disagree.
func useAll(t testing.TB, x *Index) {
	t.Helper()
	total := 0
	for n := range uint32(x.Len()) {
		var st unix.Stat_t
		x.Stat(n, &st)
		layer, _ := x.Place(n)
		require.Less(t, layer, x.Layers())
		_ = x.RootIno(layer)
		require.LessOrEqual(t, len(x.Readlink(n)), maxTarget)
		for name, value := range x.Xattrs(n) {
			have, ok := x.Xattr(n, string(name))
			require.True(t, ok)
			require.Equal(t, value, have)
		}
		last := -1
		for layer, path := range x.Parts(n) {
			require.Greater(t, layer, last)
			require.Equal(t, path, x.PathIn(n, layer))
			last = layer
		}
		if layer, path, ok := x.Data(n); ok {
			require.Less(t, layer, x.Layers())
			require.True(t, n == 0 || path != "")
		} else {
			require.True(t, x.Elsewhere(n))
		}
		names := 0
		for dir, name := range x.Names(n) {
			found, ok := x.Lookup(dir, string(name))
			require.True(t, ok)
			require.Equal(t, n, found)
			names++
		}
		require.True(t, st.Mode&unix.S_IFMT == unix.S_IFDIR || int(st.Nlink) == names)
		for _, child := range x.List(n) {
			require.NotZero(t, child)
		}
		total += x.Count(n)
		_, ok := x.Lookup(n, "absent")
		require.False(t, ok)
		_ = x.Path(n)
	}
	require.Equal(t, len(x.dirents)/direntSize-1, total)
}

func TestSampleHasEverything(t *testing.T) {
	x, err := parse(sample(t), sampleIDs)
	require.NoError(t, err)
	useAll(t, x)
	paths := map[string]string{}
	for n := range uint32(x.Len()) {
		parts := ""
		for layer, path := range x.Parts(n) {
			parts += fmt.Sprintf("%d:%s ", layer, path)
		}
		paths[x.Path(n)] = parts
	}
	require.Equal(t, map[string]string{
		"": "0: 1: 2: ", "both": "0:both 1:both 2:both ", "both/a": "0:both/a ",
		"both/from0": "0:both/from0 ", "both/from1": "1:both/from1 ", "both/from2": "2:both/from2 ",
		"here": "0:here 1:was/here 2:was/here ", "here/now": "0:here/now ",
		"here/deep": "1:was/here/deep 2:was/here/deep ", "here/deep/1": "1:was/here/deep/1 ", "here/deep/2": "2:was/here/deep/2 ",
		"was": "1:was 2:was ", "was/here": "1:was/here 2:was/here ", "was/here/deep": "1:was/here/deep 2:was/here/deep ",
		"was/here/deep/1": "1:was/here/deep/1 ", "was/here/deep/2": "2:was/here/deep/2 ",
		"link": "0:link ", "fifo": "0:fifo ", "both/meta": "0:both/meta 1:was/here/deep/1 ", "lost": "0:lost ",
	}, paths)
}

func TestOpenTellsWhatIsWrong(t *testing.T) {
	good := sample(t)
	for name, c := range map[string]struct {
		change func(data []byte) []byte
		want   error
	}{
		"empty":         {func([]byte) []byte { return nil }, ErrDamaged},
		"another file":  {func([]byte) []byte { return make([]byte, 4096) }, ErrDamaged},
		"cut short":     {func(d []byte) []byte { return d[:len(d)-1] }, ErrDamaged},
		"longer":        {func(d []byte) []byte { return append(d, 0) }, ErrDamaged},
		"longer, right": {func(d []byte) []byte { return seal(append(d, 0)) }, ErrDamaged},
		"flipped bit":   {func(d []byte) []byte { d[len(d)-1] ^= 1; return d }, ErrDamaged},
		"version":       {func(d []byte) []byte { d[atVersion]++; return d }, ErrVersion},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "index")
			require.NoError(t, os.WriteFile(path, c.change(append([]byte(nil), good...)), 0o600))
			_, err := Open(path, sampleIDs)
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, path)
		})
	}
	_, err := parse(good, sampleIDs[:2])
	require.ErrorIs(t, err, ErrOtherLayers)
	_, err = parse(good, []string{"sha256:top", "sha256:other", "sha256:lowest"})
	require.ErrorIs(t, err, ErrOtherLayers)
	require.ErrorContains(t, err, "layer 1 is sha256:middle, not sha256:other")
	_, err = Open(filepath.Join(t.TempDir(), "absent"), nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestEveryWrongByte: each byte is made wrong in several ways. Found by the
// checksum, if that is not made right again; else refused or harmless.
func TestEveryWrongByte(t *testing.T) {
	good := sample(t)
	refused := 0
	for at := range good {
		for _, value := range []byte{0, 1, good[at] + 1, good[at] - 1, good[at] ^ 0x80, 0xff} {
			if value == good[at] {
				continue
			}
			data := append([]byte(nil), good...)
			data[at] = value
			_, err := parse(data, sampleIDs)
			require.Error(t, err, "byte %d", at)
			if try(t, data) {
				refused++
			}
		}
	}
	require.Greater(t, refused, len(good), "nearly everything passes")
}

// TestEveryWrongNumber does the same with numbers of four bytes.
func TestEveryWrongNumber(t *testing.T) {
	good := sample(t)
	for at := headerSize; at+4 <= len(good); at += 4 {
		old := le.Uint32(good[at:])
		for _, value := range []uint32{0, 1, 2, 7, old + 1, old - 1, 1 << 31, none - 1, none} {
			data := append([]byte(nil), good...)
			binary.LittleEndian.PutUint32(data[at:], value)
			try(t, data)
		}
	}
}

// try parses data with a right checksum, uses what passes, and tells whether it
// was refused.
func try(t testing.TB, data []byte) (refused bool) {
	x, err := parse(seal(data), sampleIDs)
	if err != nil {
		return true
	}
	useAll(t, x)
	return false
}

// FuzzOpen: no file makes an index that panics, hangs or contradicts itself. What
// is fuzzed is how a good one is changed: its length, and numbers in it, each as
// two bytes of place and four of value. A whole file would be minimized for hours.
func FuzzOpen(f *testing.F) {
	good := sample(f)
	f.Add([]byte{atCounts, 0, 1, 0, 0, 0}, 0)
	f.Add([]byte{headerSize, 0, 1, 0, 0, 0, headerSize + 56, 0, 2, 0, 0, 0}, -12)
	f.Fuzz(func(t *testing.T, patches []byte, longer int) {
		size := len(good) + min(max(longer, -len(good)), 1<<12)
		data := make([]byte, size)
		copy(data, good)
		for ; len(patches) >= 6; patches = patches[6:] {
			if at := int(le.Uint16(patches)); at+4 <= size {
				copy(data[at:], patches[2:6])
			}
		}
		try(t, data)
	})
}

// TestCollidingNames: names chosen to meet in one slot are all found, and none
// besides, though not all of them have room where they are looked for.
func TestCollidingNames(t *testing.T) {
	const count = 100
	root, inSlot := t.TempDir(), 0
	for i := 0; inSlot < count; i++ {
		name := fmt.Sprint(i)
		if slotOf(hash(0, name), uint32(slotsFor(count))) != 5 {
			continue
		}
		inSlot++
		require.NoError(t, os.WriteFile(filepath.Join(root, name), nil, 0o644))
	}
	path := filepath.Join(t.TempDir(), "index")
	require.NoError(t, Build(path, []Layer{{Path: root, ID: "x"}}))
	x, err := Open(path, []string{"x"})
	require.NoError(t, err)
	defer x.Close()
	for name, n := range x.List(0) {
		found, ok := x.Lookup(0, string(name))
		require.True(t, ok)
		require.Equal(t, n, found)
	}
	for i := range 10000 {
		name := fmt.Sprint(i)
		_, err := os.Lstat(filepath.Join(root, name))
		_, ok := x.Lookup(0, name)
		require.Equal(t, err == nil, ok, name)
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	x, err := parse(sample(t), sampleIDs)
	require.NoError(t, err)
	var st unix.Stat_t
	require.Zero(t, testing.AllocsPerRun(100, func() {
		both, _ := x.Lookup(0, "both")
		a, _ := x.Lookup(both, "a")
		_, _ = x.Lookup(a, "absent")
		x.Stat(a, &st)
		_, _ = x.Xattr(both, "user.test")
		_, _ = x.Child(both, 1)
		link, _ := x.Lookup(0, "link")
		_ = x.Readlink(link)
	}))
}
