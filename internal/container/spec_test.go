package container

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMergeEnv(t *testing.T) {
	require.Equal(t, []string{"A=3", "B=2", "C="}, MergeEnv([]string{"A=1", "B=2"}, nil, []string{"A=3", "C="}))
	require.Empty(t, MergeEnv())
}
