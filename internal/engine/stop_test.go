package engine

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]unix.Signal{
		"9": unix.SIGKILL, "KILL": unix.SIGKILL, "sigterm": unix.SIGTERM, "SIGUSR1": unix.SIGUSR1, "hup": unix.SIGHUP,
		"RTMIN": 34, "RTMIN+3": 37, "SIGRTMAX-1": 63, "64": 64,
	} {
		got, err := ParseSignal(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, bad := range []string{"", "0", "65", "-1", "NOPE", "RTMIN-1", "RTMIN+99", "SIG"} {
		_, err := ParseSignal(bad)
		require.EqualError(t, err, "invalid signal: "+bad)
	}
}

func TestParseRestart(t *testing.T) {
	for text, want := range map[string]RestartPolicy{
		"": {}, "no": {}, "always": {Name: "always"}, "unless-stopped": {Name: "unless-stopped"},
		"on-failure": {Name: "on-failure"}, "on-failure:3": {"on-failure", 3}, "on-failure:": {Name: "on-failure"},
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
	require.False(t, RestartPolicy{}.again(1, 0))
	require.True(t, RestartPolicy{Name: "always"}.again(0, 99))
	require.False(t, RestartPolicy{Name: "on-failure"}.again(0, 0))
	require.True(t, RestartPolicy{"on-failure", 2}.again(1, 1))
	require.False(t, RestartPolicy{"on-failure", 2}.again(1, 2))
}
