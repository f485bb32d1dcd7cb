package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// TestTimersAreAsElsewhere: stages and supervisors begin with much timer slack, but the
// programs of a container have the kernel's, and so does a supervisor that lives on.
func TestTimersAreAsElsewhere(t *testing.T) {
	const kernels = "50000\n"
	eachUser(t, func(t *testing.T, h *home) {
		require.Equal(t, kernels, h.ok(t, "run", "--rm", "small:1", "cat", "/proc/self/timerslack_ns"))
		require.Equal(t, kernels, h.ok(t, "run", "--rm", "--init", "small:1", "cat", "/proc/self/timerslack_ns"))
		h.ok(t, "run", "-d", "--name", "up", "small:1", "sleep", "1000")
		require.Equal(t, kernels, h.ok(t, "exec", "up", "cat", "/proc/self/timerslack_ns"))
		supervisor := h.state(t).Supervisor.Pid
		threads := func() (list []string) {
			dirs, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", supervisor))
			require.NoError(t, err)
			for _, dir := range dirs {
				slack, err := os.ReadFile(filepath.Join("/proc", filepath.Base(dir), "timerslack_ns"))
				if err == nil { // it has not ended
					list = append(list, string(slack))
				}
			}
			return list
		}
		testenv.Eventually(t, "all of its threads wake promptly", func() bool {
			list := threads()
			return strings.Join(list, "") == strings.Repeat(kernels, len(list))
		})
		h.ok(t, "rm", "-f", "up")
	})
}
