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
	of := func() (list []string) { // others' tests may ask a view meanwhile
		for _, line := range testenv.Holders(dir) {
			if strings.Contains(line, dir) {
				list = append(list, line)
			}
		}
		return list
	}
	require.Empty(t, of())
	path := filepath.Join(dir, "file")
	f, err := os.Create(path)
	require.NoError(t, err)
	list := of()
	require.NoError(t, f.Close())
	require.Len(t, list, 1)
	require.True(t, strings.HasSuffix(list[0], " is "+path), list[0])
}
