package cgroup

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestUsage: the figures of both versions, written as the kernel writes them.
func TestUsage(t *testing.T) {
	group := func(files map[string]string) string {
		dir := t.TempDir()
		for name, text := range files {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		}
		return dir
	}
	for name, c := range map[string]struct {
		g    Group
		want Usage
	}{
		"version 2": {
			Group{Unified: group(map[string]string{
				"cpu.stat": "usage_usec 1500\nuser_usec 1000\n", "memory.current": "5000\n", "memory.stat": "anon 1\ninactive_file 2000\n",
				"memory.max": "8000\n", "pids.current": "7\n", "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n",
			})},
			Usage{CPU: 1500 * time.Microsecond, Memory: 3000, MemoryLimit: 8000, Pids: 7, Read: 11, Written: 22},
		},
		"version 2 without a limit": {
			Group{Unified: group(map[string]string{"cpu.stat": "usage_usec 2\n", "memory.current": "5\n", "memory.max": "max\n", "pids.current": "1\n", "io.stat": ""})},
			Usage{CPU: 2 * time.Microsecond, Memory: 5, Pids: 1},
		},
		"version 1": {
			Group{V1: map[string]string{
				"cpu":    group(map[string]string{"cpuacct.usage": "3000\n"}),
				"memory": group(map[string]string{"memory.usage_in_bytes": "5000\n", "memory.stat": "total_inactive_file 6000\n", "memory.limit_in_bytes": "9223372036854771712\n"}),
				"pids":   group(map[string]string{"pids.current": "3\n"}),
				"blkio":  group(map[string]string{"blkio.throttle.io_service_bytes": "8:0 Read 5\n8:0 Write 6\n8:0 Total 11\nTotal 11\n"}),
			}},
			Usage{CPU: 3000, Pids: 3, Read: 5, Written: 6},
		},
		"both, each with a part": {
			Group{Unified: group(map[string]string{"cpu.stat": "usage_usec 1\n"}), V1: map[string]string{"memory": group(map[string]string{"memory.usage_in_bytes": "5", "memory.limit_in_bytes": "6"})}},
			Usage{CPU: time.Microsecond, Memory: 5, MemoryLimit: 6, Missing: []string{"pids", "io"}},
		},
		"none": {Group{}, Usage{Missing: []string{"cpu", "memory", "pids", "io"}}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, c.g.Usage()) })
	}
}
