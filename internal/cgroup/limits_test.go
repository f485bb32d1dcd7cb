package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestApply: what is written to the files of both versions, and that nothing else is.
func TestApply(t *testing.T) {
	swappiness := int64(0)
	for name, c := range map[string]struct {
		l        Limits
		was      string            // of the group above
		one, two map[string]string // by version
	}{
		"memory": {
			l:   Limits{Memory: 8000, MemoryReservation: 4000, MemorySwappiness: &swappiness, OOMKillDisable: true},
			one: map[string]string{"memory.limit_in_bytes": "8000", "memory.memsw.limit_in_bytes": "16000", "memory.soft_limit_in_bytes": "4000", "memory.swappiness": "0", "memory.oom_control": "1"},
			two: map[string]string{"memory.max": "8000", "memory.swap.max": "8000", "memory.low": "4000"},
		},
		"a reservation alone": {
			l:   Limits{MemoryReservation: 4000},
			one: map[string]string{"memory.soft_limit_in_bytes": "4000"}, two: map[string]string{"memory.low": "4000"},
		},
		"processors": {
			l:   Limits{NanoCPUs: 1.5e9, CPUShares: 512},
			one: map[string]string{"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000", "cpu.shares": "512"},
			two: map[string]string{"cpu.max": "150000 100000", "cpu.weight": "20"},
		},
		"a quota": {
			l:   Limits{CPUQuota: 25000},
			one: map[string]string{"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "25000"}, two: map[string]string{"cpu.max": "25000 100000"},
		},
		"a period": {
			l:   Limits{CPUPeriod: 50000, CPUQuota: -1},
			one: map[string]string{"cpu.cfs_period_us": "50000", "cpu.cfs_quota_us": "-1"}, two: map[string]string{"cpu.max": "max 50000"},
		},
		"any quota": {l: Limits{CPUQuota: -1}},
		"memory nodes": {
			l: Limits{CPUSetMems: "0"}, was: "above",
			one: map[string]string{"cpuset.cpus": "above", "cpuset.mems": "0"}, two: map[string]string{"cpuset.mems": "0"},
		},
		"which processors": {
			l: Limits{CPUSet: "1"}, was: "above",
			one: map[string]string{"cpuset.cpus": "1", "cpuset.mems": "above"}, two: map[string]string{"cpuset.cpus": "1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			older, unified := filepath.Join(top, "older"), filepath.Join(top, "unified")
			dirs := map[string]string{}
			for _, controller := range []string{"cpu", "cpuset", "memory"} {
				dirs[controller] = older
			}
			for _, dir := range []string{top, older, unified} {
				require.NoError(t, os.MkdirAll(dir, 0o755))
				for _, file := range strings.Fields("memory.limit_in_bytes memory.memsw.limit_in_bytes memory.soft_limit_in_bytes memory.swappiness memory.oom_control" +
					" memory.max memory.swap.max memory.low cpu.cfs_period_us cpu.cfs_quota_us cpu.shares cpu.max cpu.weight cpuset.cpus cpuset.mems") {
					require.NoError(t, os.WriteFile(filepath.Join(dir, file), nil, 0o600))
				}
			}
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				require.NoError(t, os.WriteFile(filepath.Join(top, file), []byte(c.was), 0o600))
			}
			require.NoError(t, Group{V1: dirs}.apply(c.l))
			require.NoError(t, Group{Unified: unified, Controllers: []string{"cpu", "cpuset", "memory"}}.apply(c.l))
			require.Equal(t, c.one, written(t, older))
			require.Equal(t, c.two, written(t, unified))
		})
	}
}

// written are the files of dir that are not empty, nil for none.
func written(t *testing.T, dir string) (files map[string]string) {
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range list {
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		if len(raw) > 0 && files == nil {
			files = map[string]string{}
		}
		if len(raw) > 0 {
			files[e.Name()] = string(raw)
		}
	}
	return files
}
