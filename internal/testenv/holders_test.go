package testenv_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

func TestHolders(t *testing.T) {
	dir := t.TempDir()
	require.Empty(t, testenv.Holders(dir))
	path := filepath.Join(dir, "file")
	f, err := os.Create(path)
	require.NoError(t, err)
	list := testenv.Holders(dir)
	require.NoError(t, f.Close())
	require.Len(t, list, 1)
	require.True(t, strings.HasSuffix(list[0], " is "+path), list[0])
}
