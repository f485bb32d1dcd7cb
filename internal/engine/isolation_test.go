package engine

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/cgroup"
	"github.com/varvefs/varve/runner"
)

func TestLimitsThatDockerRefuses(t *testing.T) {
	swappiness := int64(-2)
	for says, l := range map[string]cgroup.Limits{
		"minimum memory limit allowed is 6MB":       {Memory: 1 << 20},
		"always set the Memory limit":               {MemorySwap: 1 << 30},
		"should be larger than memory limit":        {Memory: 1 << 30, MemorySwap: 1 << 29},
		"range of CPUs is from 0.01 to":             {NanoCPUs: 1 << 50},
		"invalid value 1-0 for cpuset cpus":         {CPUSet: "1-0"},
		"invalid value x for cpuset cpus":           {CPUSet: "x"},
		"requested CPUs are not available - reques": {CPUSet: "4000"},
		"requested memory nodes are not available":  {CPUSetMems: "4000"},
		"invalid value 1- for cpuset mems":          {CPUSetMems: "1-"},
		"Nano CPUs and CPU Period cannot both be":   {NanoCPUs: 1e9, CPUPeriod: 50000, CPUQuota: 50000},
		"Nano CPUs and CPU Quota cannot both be":    {NanoCPUs: 1e9, CPUQuota: -1},
		"CPU cfs period can not be less than 1ms":   {CPUPeriod: 1000001},
		"CPU cfs quota can not be less than 1ms":    {CPUQuota: 999},
		"minimum memory reservation allowed is 6MB": {MemoryReservation: 1 << 20},
		"less than memory reservation limit":        {Memory: 6 << 20, MemoryReservation: 7 << 20},
		"Valid memory swappiness range is 0-100":    {MemorySwappiness: &swappiness},
	} {
		require.ErrorContains(t, checkLimits(l), says)
	}
	require.NoError(t, checkLimits(cgroup.Limits{Memory: 6 << 20, MemorySwap: -1, NanoCPUs: 5e8, CPUSet: "0"}))
	swappiness = 100
	require.NoError(t, checkLimits(cgroup.Limits{
		Memory: 6 << 20, MemoryReservation: 6 << 20, MemorySwappiness: &swappiness, OOMKillDisable: true, CPUPeriod: 1000, CPUQuota: -5,
	}))
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
	for text, says := range map[string]string{ // docker's words
		"nofile": "invalid ulimit argument: nofile", "files=1": "invalid ulimit type: files",
		"nofile=x": `strconv.ParseInt: parsing "x": invalid syntax`, "nofile=1:x": `strconv.ParseInt: parsing "x": invalid syntax`,
		"nofile=2:1":   "ulimit soft limit must be less than or equal to hard limit: 2 > 1",
		"nofile=-1:1":  "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: 1",
		"nofile=1:2:3": "too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`",
	} {
		_, err := parseUlimit(text)
		require.EqualError(t, err, says, text)
	}
}
