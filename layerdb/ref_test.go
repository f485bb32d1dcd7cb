package layerdb

import (
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/stretchr/testify/require"
)

// FuzzParseRef holds our grammar to docker's own.
func FuzzParseRef(f *testing.F) {
	for _, s := range []string{
		"", "mine", "mine:1", "a/b:c", "docker.io/x", "index.docker.io/x:y", "localhost/x", "localhost:5000/a/b:c_D.e-",
		"EXAMPLE/x", "Example.com:80/a", "[::1]:5000/x", "[::1]/x", "[::g]/x", "a..b", "a.b", "a__b", "a___b", "a---b", "a_.b",
		"a-", "-a", "a/-b", "a:b:c", "a:", ":a", "/", "a//b", "a/", "UP", "up/UP", "x:.y", "x:-y", "x:_y", "host-/x", "h.-.x/y",
		"a.b:/c", "a:b/c", "a:80:90/c", "x:" + strings.Repeat("t", 128), "x:" + strings.Repeat("t", 129), strings.Repeat("f", 64),
		strings.Repeat("f", 63), strings.Repeat("a", 256), strings.Repeat("a/", 127) + "b", "ä", "a b", "a\n", "library/x", "library/x/y",
		"docker.io/library/x/y", "x.y/ü", "Ü/x", "\x00/a",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "@") { // digests are refused here, and not there
			_, err := ParseRef(s)
			require.Error(t, err)
			return
		}
		named, want := reference.ParseNormalizedNamed(s)
		got, err := ParseRef(s)
		if want == nil && reference.Domain(named) == "" { // "x_y.io/z", which is of no registry there
			require.Error(t, err, "%q", s)
			return
		}
		require.Equal(t, want == nil, err == nil, "%q: docker says %v, we say %v", s, want, err)
		if err != nil {
			return
		}
		named = reference.TagNameOnly(named)
		require.Equal(t, named.String(), got)
		require.Equal(t, reference.FamiliarString(named), Familiar(got))
		repo, tag := RepoTag(got)
		require.Equal(t, reference.FamiliarName(named), repo)
		require.Equal(t, named.(reference.Tagged).Tag(), tag)
	})
}
