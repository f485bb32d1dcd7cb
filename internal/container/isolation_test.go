package container

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/cgroup"
	"github.com/varvefs/varve/runner"
)

func TestParseSet(t *testing.T) {
	list, err := ParseSet("0-2,5")
	require.NoError(t, err)
	require.Equal(t, []int{0, 1, 2, 5}, list)
	for _, text := range []string{"-1", "2-1", "a", ",", "1-", "99999"} {
		_, err := ParseSet(text)
		require.Error(t, err, text)
	}
}

// TestWhatBecomesOfLimits: of those that no control group is to be had for, and of those
// that version 2 does not know.
func TestWhatBecomesOfLimits(t *testing.T) {
	swappiness := int64(5)
	l := cgroup.Limits{Memory: 1 << 30, MemorySwappiness: &swappiness, OOMKillDisable: true, CPUQuota: 5000, CPUSet: "0"}
	require.ErrorContains(t, lacking(l, []string{"cpu", "memory"}), "with the controllers cpu, memory is to be had here, so --cpu-quota does nothing, "+
		"-m binds each process by itself (RLIMIT_DATA), --memory-swappiness does nothing, --oom-kill-disable does nothing; what")
	require.NoError(t, lacking(l, nil))

	unified := cgroup.Group{Unified: "/x", Controllers: []string{"memory"}}
	require.EqualError(t, discarded(l, unified), "your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded\n"+
		"your kernel does not support OomKillDisable. OomKillDisable discarded")
	older := cgroup.Group{V1: map[string]string{"memory": "/x"}}
	require.NoError(t, discarded(l, older))
	l.Memory = 0
	require.ErrorContains(t, discarded(l, older), "OOM killer is disabled for the container, but no memory limit is set")

	var cfg runner.Config
	Sandbox{Limits: l}.apply(&cfg, []string{"memory"})
	require.Empty(t, cfg.Rlimits, "no limit of memory was asked for")
}
