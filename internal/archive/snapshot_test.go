package archive

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// packedFrom is the layer that a finished snapshot gives.
func packedFrom(t *testing.T, root, copied string, s *Snapshot) Unpacked {
	t.Helper()
	require.NoError(t, s.Finish())
	s.Close()
	want, err := PackUpper(root, stage(t), PackOptions{})
	require.NoError(t, err)
	got, err := PackUpper(copied, stage(t), PackOptions{Move: true})
	require.NoError(t, err)
	require.Equal(t, want, got)
	return got
}

func newSnapshot(t *testing.T, root string) (*Snapshot, string) {
	t.Helper()
	copied := t.TempDir()
	s, err := NewSnapshot(root, copied)
	require.NoError(t, err)
	return s, copied
}

// A snapshot gives the same layer as the upper, whatever is in it and in which dialect.
func TestSnapshot(t *testing.T) {
	for _, dialect := range []whiteout.Dialect{whiteout.OCI, whiteout.Overlay} {
		root := upper(t, dialect)
		time.Sleep(2 * tick) // what was changed just now is not believed
		s, copied := newSnapshot(t, root)
		n, err := s.Follow()
		require.NoError(t, err)
		require.Greater(t, n, int64(8<<20))
		n, err = s.Follow()
		require.NoError(t, err)
		require.Zero(t, n, "nothing has changed")
		packedFrom(t, root, copied, s)
		s, copied = newSnapshot(t, root)
		packedFrom(t, root, copied, s)
	}
}

// writeSome writes a file, but not into a FIFO, where nobody reads.
func writeSome(path, text string) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK, 0o644)
	if err == nil {
		_, _ = f.WriteString(text)
		_ = f.Close()
	}
}

// disturb does one change of an upper. It ignores what can not be done.
func disturb(r *rand.Rand, root string) {
	path := func() string { return filepath.Join(root, fmt.Sprint(r.IntN(3)), fmt.Sprint(r.IntN(4))) }
	p, q := path(), path()
	switch r.IntN(14) {
	case 0:
		_ = os.MkdirAll(p, 0o755)
	case 1, 2, 3:
		_ = os.MkdirAll(filepath.Dir(p), 0o755)
		writeSome(p, fmt.Sprint(r.Uint64()))
	case 4: // the same size, in place
		if f, err := os.OpenFile(p, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			_, _ = f.WriteAt([]byte{byte(r.Uint32())}, 3)
			_ = f.Close()
		}
	case 5:
		_ = os.RemoveAll(p)
	case 6:
		_ = os.Rename(p, q)
	case 7:
		_ = os.Link(p, q)
	case 8:
		_ = os.Symlink(fmt.Sprint(r.IntN(5)), p)
	case 9:
		_ = unix.Mkfifo(p, 0o600)
	case 10:
		_ = os.Chmod(p, os.FileMode(0o700|r.IntN(64)))
	case 11:
		_ = at.Setxattr(at.CWD, p, "user.a", []byte{byte(r.Uint32())}, 0)
		_ = at.Removexattr(at.CWD, q, "user.a")
	case 12:
		_ = os.WriteFile(filepath.Join(filepath.Dir(p), whiteout.Prefix+filepath.Base(p)), nil, 0o600)
	case 13:
		if fd, err := at.OpenRoot(filepath.Dir(p)); err == nil {
			_ = whiteout.Overlay.SetOpaque(fd)
			_ = unix.Close(fd)
		}
	}
}

// However the upper changes between the passes, or while one goes on, in the end the
// snapshot is the same.
func TestSnapshotFollows(t *testing.T) {
	for seed := range uint64(60) {
		root := t.TempDir()
		r := rand.New(rand.NewPCG(seed, 1))
		s, copied := newSnapshot(t, root)
		for range 5 {
			for range r.IntN(40) {
				disturb(r, root)
			}
			if seed%2 == 0 {
				_, err := s.Follow()
				require.NoError(t, err, "seed %d", seed)
				continue
			}
			done, ended := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(ended)
				for {
					select {
					case <-done:
						return
					default:
						disturb(r, root)
					}
				}
			}()
			_, err := s.Follow()
			close(done)
			<-ended
			require.NoError(t, err, "seed %d", seed)
		}
		packedFrom(t, root, copied, s)
	}
}

// Nobody writes when it is finished, so what can not be copied counts then.
func TestSnapshotIsStrictAtTheEnd(t *testing.T) {
	root := t.TempDir()
	overwrite(t, root+"/file", "data")
	overwrite(t, root+"/half", "")
	require.NoError(t, unix.Setxattr(root+"/half", "user.overlay.metacopy", nil, 0))
	s, copied := newSnapshot(t, root)
	defer s.Close()
	n, err := s.Follow()
	require.NoError(t, err)
	require.EqualValues(t, len("data"), n)
	require.NoFileExists(t, copied+"/half")
	require.ErrorContains(t, s.Finish(), `"half": the upper has only its metadata`)
}
