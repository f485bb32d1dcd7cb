package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/container"
)

func TestParseRestart(t *testing.T) {
	for text, want := range map[string]container.RestartPolicy{
		"": {}, "no": {}, "always": {Name: "always"}, "unless-stopped": {Name: "unless-stopped"},
		"on-failure": {Name: "on-failure"}, "on-failure:3": {Name: "on-failure", Max: 3}, "on-failure:": {Name: "on-failure"},
	} {
		got, err := parseRestart(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for bad, says := range map[string]string{ // docker's words
		"yes": "invalid restart policy 'yes'", "always:3": "maximum retry count cannot be used with restart policy 'always'",
		"no:1": "maximum retry count cannot be used with restart policy 'no'", "on-failure:-1": "maximum retry count cannot be negative",
		"on-failure:x": "invalid restart policy format: maximum retry count must be an integer",
	} {
		_, err := parseRestart(bad)
		require.ErrorContains(t, err, says, bad)
	}
	require.False(t, container.RestartPolicy{}.Again(1, 0))
	require.True(t, container.RestartPolicy{Name: "always"}.Again(0, 99))
	require.False(t, container.RestartPolicy{Name: "on-failure"}.Again(0, 0))
	require.True(t, container.RestartPolicy{Name: "on-failure", Max: 2}.Again(1, 1))
	require.False(t, container.RestartPolicy{Name: "on-failure", Max: 2}.Again(1, 2))
}
