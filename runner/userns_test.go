package runner

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestReadSubids(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	require.NoError(t, os.WriteFile(file, []byte(`# a comment
other:1:2
me:100000:65536

me:7
me:x:1
me:5:0
me:1:2:3
1000:300000:10
me2:1:1
`), 0o644))
	list, err := readSubids(file, []string{"me", "1000"})
	require.NoError(t, err)
	require.Equal(t, []IDMap{{0, 100000, 65536}, {0, 300000, 10}}, list)
	require.Equal(t, []IDMap{{0, 1000, 1}, {1, 100000, 65536}, {65537, 300000, 10}}, withSelf(1000, list))

	list, err = readSubids(filepath.Join(t.TempDir(), "none"), []string{"me"})
	require.NoError(t, err)
	require.Empty(t, list)
	_, err = readSubids(t.TempDir(), []string{"me"})
	require.ErrorIs(t, err, unix.EISDIR)
}

func TestRootNeedsNoUserns(t *testing.T) {
	needRoot(t)
	if inUserns(t) {
		t.Skip("is itself run by an ordinary user")
	}
	plan, err := PlanUserns()
	require.NoError(t, err)
	require.Nil(t, plan)
	now, err := CurrentUserns()
	require.NoError(t, err)
	require.Nil(t, now)
}

func TestClosedUserNamespacesAreExplained(t *testing.T) {
	require.Equal(t, unix.ENOMEM, explainUserns(unix.ENOMEM, SingleUserns("")))
	require.Equal(t, unix.EPERM, explainUserns(unix.EPERM, nil), "none was asked for")
	require.ErrorContains(t, explainUserns(unix.EPERM, SingleUserns("")), "does not let you make them")
}

// Root, too, makes no user namespace for a container where there can be none.
func TestClosedUserNamespacesOfAContainer(t *testing.T) {
	proc := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(proc, "sys/user"), 0o755))
	setting := filepath.Join(proc, "sys/user/max_user_namespaces")
	require.NoError(t, os.WriteFile(setting, []byte("0\n"), 0o600))
	require.ErrorContains(t, explainLimit(proc, unix.ENOSPC, true), "user.max_user_namespaces = 0: sudo sysctl -w")
	require.Equal(t, unix.ENOSPC, explainLimit(proc, unix.ENOSPC, false))
	require.Equal(t, unix.EPERM, explainLimit(proc, unix.EPERM, true))
	require.NoError(t, os.WriteFile(setting, []byte("100\n"), 0o600))
	require.Equal(t, unix.ENOSPC, explainLimit(proc, unix.ENOSPC, true))
}
