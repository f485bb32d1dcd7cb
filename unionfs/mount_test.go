package unionfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// transportEnv is the transport of the views of all tests; auto if it is not set.
const transportEnv = "VARVE_TEST_TRANSPORT"

// world is a view in a test, with the directories that it is made of.
type world struct {
	mnt, upper, work string
	lowers           []string // top first
	server           *Server
}

// newWorld makes empty directories; mount mounts them.
func newWorld(t *testing.T, layers int) *world {
	t.Helper()
	root := t.TempDir()
	dir := func(name string) string {
		p := filepath.Join(root, name)
		require.NoError(t, os.Mkdir(p, 0o755))
		return p
	}
	w := &world{mnt: dir("mnt"), upper: dir("upper"), work: dir("work")}
	for i := range layers {
		w.lowers = append(w.lowers, dir("lower"+string(rune('0'+i))))
	}
	return w
}

func (w *world) options() Options {
	transport, err := ParseTransport(os.Getenv(transportEnv))
	must(err)
	o := Options{Upper: w.upper, Work: w.work, Transport: transport}
	for _, l := range w.lowers {
		o.Lowers = append(o.Lowers, Lower{Path: l})
	}
	return o
}

func (w *world) mount(t *testing.T, opt Options) {
	t.Helper()
	s, err := Mount(w.mnt, opt)
	require.NoError(t, err)
	w.server = s
	t.Cleanup(func() {
		if w.server == s {
			require.NoError(t, s.Unmount())
		}
	})
}

func (w *world) unmount(t *testing.T) {
	t.Helper()
	require.NoError(t, w.server.Unmount())
	w.server = nil
}
