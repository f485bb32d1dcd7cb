package engine

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/cgroup"
	"github.com/varvefs/varve/runner"
)

func TestLimitsThatDockerRefuses(t *testing.T) {
	for says, l := range map[string]cgroup.Limits{
		"minimum memory limit allowed is 6MB":       {Memory: 1 << 20},
		"always set the Memory limit":               {MemorySwap: 1 << 30},
		"should be larger than memory limit":        {Memory: 1 << 30, MemorySwap: 1 << 29},
		"range of CPUs is from 0.01 to":             {NanoCPUs: 1 << 50},
		"invalid value 1-0 for cpuset cpus":         {CPUSet: "1-0"},
		"invalid value x for cpuset cpus":           {CPUSet: "x"},
		"requested CPUs are not available - reques": {CPUSet: "4000"},
	} {
		require.ErrorContains(t, checkLimits(l), says)
	}
	require.NoError(t, checkLimits(cgroup.Limits{Memory: 6 << 20, MemorySwap: -1, NanoCPUs: 5e8, CPUSet: "0"}))
}

func TestParseUlimit(t *testing.T) {
	for text, want := range map[string]runner.Rlimit{
		"nofile=1":     {Resource: unix.RLIMIT_NOFILE, Soft: 1, Hard: 1},
		"core=0:-1":    {Resource: unix.RLIMIT_CORE, Soft: 0, Hard: 1<<64 - 1},
		"nproc=-1":     {Resource: unix.RLIMIT_NPROC, Soft: 1<<64 - 1, Hard: 1<<64 - 1},
		"stack=10:100": {Resource: unix.RLIMIT_STACK, Soft: 10, Hard: 100},
	} {
		got, err := parseUlimit(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"nofile", "files=1", "nofile=x", "nofile=2:1", "nofile=-1:1", "nofile=1:x"} {
		_, err := parseUlimit(text)
		require.ErrorContains(t, err, "ulimit", text)
	}
}

func TestParseCPUs(t *testing.T) {
	list, err := parseCPUs("0-2,5")
	require.NoError(t, err)
	require.Equal(t, []int{0, 1, 2, 5}, list)
	for _, text := range []string{"-1", "2-1", "a", ",", "1-", "99999"} {
		_, err := parseCPUs(text)
		require.Error(t, err, text)
	}
}
