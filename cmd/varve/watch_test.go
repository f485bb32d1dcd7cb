package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// TestWatchStays: the process that ends a container whose supervisor was killed is there
// for as long as the container is, and neither it nor the supervisor holds what the verb
// that started them was given. Together they are as small as is said of them, and only
// their user may speak with them.
func TestWatchStays(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		given, err := os.CreateTemp(filepath.Dir(h.root), "given")
		require.NoError(t, err)
		defer func() { require.NoError(t, given.Close()) }()
		cmd := h.command(t.Context(), "run", "-d", "small:1", "sleep", "1000")
		cmd.ExtraFiles = []*os.File{given}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)

		supervisor := h.state(t).Supervisor.Pid
		var watch string
		testenv.Eventually(t, "the watch", func() bool {
			watch = childNamed(t, supervisor, "varve-watch")
			return watch != ""
		})
		time.Sleep(time.Second) // Go's runtime looks after its descriptors each 10 ms
		require.Equal(t, watch, childNamed(t, supervisor, "varve-watch"), "it has not ended")
		exe, err := os.Readlink("/proc/" + watch + "/exe")
		require.NoError(t, err)
		require.Equal(t, "/memfd:varve (deleted)", exe, "the small program")
		for _, pid := range []string{watch, fmt.Sprint(supervisor)} {
			require.NotContains(t, descriptors(t, pid), given.Name())
		}
		require.Less(t, resident(t, fmt.Sprint(supervisor)), 25<<10, "KiB of the supervisor")
		require.Less(t, resident(t, watch), 5<<10, "KiB of the watch")
		door, err := os.Lstat(filepath.Join(filepath.Dir(h.stateFile(t)), "control.sock"))
		require.NoError(t, err)
		require.Equal(t, os.ModeSocket|0o600, door.Mode())
	})
}

// childNamed is the pid of a child that has this name as its whole command line.
func childNamed(t *testing.T, parent int, name string) string {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	require.NoError(t, err)
	for _, list := range lists {
		raw, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, pid := range strings.Fields(string(raw)) {
			if args, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && string(args) == name+"\x00" {
				return pid
			}
		}
	}
	return ""
}

// descriptors are the names of what a process has open.
func descriptors(t *testing.T, pid string) (names []string) {
	links, err := filepath.Glob("/proc/" + pid + "/fd/*")
	require.NoError(t, err)
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// resident is the memory of a process in KiB.
func resident(t *testing.T, pid string) int {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(status), "VmRSS:")
	require.True(t, found)
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return kib
}
