package container

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseCPUs(t *testing.T) {
	list, err := ParseCPUs("0-2,5")
	require.NoError(t, err)
	require.Equal(t, []int{0, 1, 2, 5}, list)
	for _, text := range []string{"-1", "2-1", "a", ",", "1-", "99999"} {
		_, err := ParseCPUs(text)
		require.Error(t, err, text)
	}
}
