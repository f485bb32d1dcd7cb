package unionfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"github.com/stretchr/testify/require"
)

// TestPosix runs go-fuse's conformance tests on a view whose directory comes
// from a lower layer, from the upper, or from both.
func TestPosix(t *testing.T) {
	for where, prepare := range map[string]func(t *testing.T, w *world, dir string){
		"lower": func(t *testing.T, w *world, dir string) { mkdir(t, w.lowers[1], dir) },
		"upper": func(t *testing.T, w *world, dir string) { mkdir(t, w.upper, dir) },
		"mixed": func(t *testing.T, w *world, dir string) {
			mkdir(t, w.lowers[0], dir)
			mkdir(t, w.lowers[1], dir)
			mkdir(t, w.upper, dir)
		},
	} {
		for name, test := range posixtest.All {
			t.Run(where+"/"+name, func(t *testing.T) {
				w := newWorld(t, 2)
				prepare(t, w, "d")
				w.mount(t, w.options())
				test(t, filepath.Join(w.mnt, "d"))
			})
		}
	}
}

func mkdir(t *testing.T, root, dir string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
}
