package testenv_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

func TestRangedRunsAsThatUserAndIsGoneAfter(t *testing.T) {
	var name, home string
	t.Run("use", func(t *testing.T) {
		testenv.Root(t)
		u := testenv.Ranged(t)
		name, home = u.Name, u.Home
		out, err := u.Command(t.Context(), "sh", "-c", "id -u; pwd; cat "+u.Give(t, secret(t))).Output()
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(u.UID)+"\n"+u.Home+"\nsecret", string(out))
		require.NotEqual(t, os.Getuid(), u.UID)
		require.True(t, inSubuid(t, u.Name), "a line in /etc/subuid")
	})
	if name == "" {
		t.Skip("needs root to make users: run it as `sudo make test`")
	}
	_, err := user.Lookup(name)
	require.Error(t, err, "the user is removed")
	require.NoDirExists(t, home)
	require.False(t, inSubuid(t, name), "and the range with it")
}

func TestSingleHasNoRange(t *testing.T) {
	testenv.Root(t)
	u := testenv.Single(t)
	require.False(t, u.Ranged)
	require.False(t, inSubuid(t, u.Name))
}

func inSubuid(t *testing.T, name string) bool {
	t.Helper()
	data, err := os.ReadFile("/etc/subuid")
	require.NoError(t, err)
	return strings.Contains("\n"+string(data), "\n"+name+":")
}

// secret makes a file that only the runner of the test can reach.
func secret(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte("secret"), 0o600))
	return path
}

func TestBusyboxTarListsWhatTheDirectoryHas(t *testing.T) {
	r := testenv.Busybox(t)
	f, err := os.Open(r.Tar)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	inTar := map[string]bool{}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		inTar[filepath.Clean(h.Name)] = true
		require.Zero(t, h.Uid, h.Name)
	}
	require.NoError(t, filepath.WalkDir(r.Dir, func(path string, _ os.DirEntry, err error) error {
		require.NoError(t, err)
		name, err := filepath.Rel(r.Dir, path)
		require.NoError(t, err)
		require.True(t, inTar[name], name)
		delete(inTar, name)
		return nil
	}))
	require.Empty(t, inTar)
	require.NoError(t, exec.Command(filepath.Join(r.Dir, "bin/true")).Run())
}

// recorder is a testing.TB whose failures are noted instead of counted.
type recorder struct {
	testing.TB
	failures []string
	cleanup  []func()
}

func (r *recorder) Helper()                   {}
func (r *recorder) Cleanup(fn func())         { r.cleanup = append(r.cleanup, fn) }
func (r *recorder) Errorf(s string, a ...any) { r.failures = append(r.failures, s) }

func TestCheckLeaksTellsADescriptorAndAProcess(t *testing.T) {
	r := &recorder{TB: t}
	testenv.CheckLeaks(r)
	f, err := os.Open("/")
	require.NoError(t, err)
	child := exec.Command("sleep", "60")
	require.NoError(t, child.Start())
	for _, fn := range r.cleanup {
		fn()
	}
	require.NoError(t, child.Process.Kill())
	require.Error(t, child.Wait(), "killed")
	require.NoError(t, f.Close())
	require.Contains(t, strings.Join(r.failures, "\n"), "the test left a")
	require.GreaterOrEqual(t, len(r.failures), 2, "the descriptor and the process: %v", r.failures)
}

func TestCheckLeaksIsQuietWhenAllIsClosed(t *testing.T) {
	r := &recorder{TB: t}
	testenv.CheckLeaks(r)
	require.NoError(t, exec.Command("true").Run())
	for _, fn := range r.cleanup {
		fn()
	}
	require.Empty(t, r.failures)
}
