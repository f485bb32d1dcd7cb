package archive

import (
	"archive/tar"
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzUnpack(f *testing.F) {
	for _, attack := range attacks {
		// Large seeds keep the fuzzer busy with making them smaller.
		if data := build(f, attack.items...); len(data) < 16<<10 {
			f.Add(data)
		}
	}
	f.Add(sparseBomb(f, 1<<20))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := newCanary(t)
		got, err := Unpack(bytes.NewReader(data), c.layer, UnpackOptions{MaxBytes: 16 << 20, MaxEntries: 1000})
		c.requireUnchanged(t)
		if err != nil {
			return
		}
		var back bytes.Buffer
		require.NoError(t, WriteLayer(&back, c.layer, got.DiffID))
		dir := c.root + "/packed"
		require.NoError(t, os.Mkdir(dir, 0o700))
		_, err = PackUpper(c.layer+"/diff", dir, PackOptions{})
		require.NoError(t, err)
	})
}

func FuzzCleanName(f *testing.F) {
	for _, name := range []string{"a/b", "/a//b/", "../a", "a/..", ".", "", "./.wh.x", "a\x00b", ".wh..wh..opq"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		clean, err := cleanName(name)
		if err != nil {
			return
		}
		require.False(t, strings.HasPrefix(clean, "/") || strings.HasSuffix(clean, "/"))
		for part := range strings.SplitSeq(clean, "/") {
			require.NotContains(t, []string{".", ".."}, part)
			require.True(t, part != "" || clean == "")
		}
		again, err := cleanName(clean)
		require.NoError(t, err)
		require.Equal(t, clean, again)
	})
}

// FuzzExtract: whatever an archive is, nothing outside of the directory changes, also when
// it comes twice.
func FuzzExtract(f *testing.F) {
	for _, attack := range attacks {
		if data := build(f, attack.items...); len(data) < 16<<10 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !isSmall(data) {
			return
		}
		c := newCanary(t)
		for range 2 {
			_, _ = extract(t, c.layer, data, ExtractOptions{Owner: Attempted, Trusted: true}) // refused or not
			c.requireUnchanged(t)
		}
	})
}

// isSmall tells whether the files of a tar are: holes may make them as long as they like.
func isSmall(data []byte) bool {
	plain, free, err := decompress(bytes.NewReader(data))
	if err != nil {
		return true // it is no tar
	}
	defer free()
	for r := tar.NewReader(plain); ; {
		hdr, err := r.Next()
		if err != nil {
			return true
		}
		if hdr.Size > 16<<20 {
			return false
		}
	}
}
