package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/testenv"
)

// statusOf are the words of a line of /proc/PID/status.
func statusOf(t *testing.T, pid int, key string) []string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	line := regexp.MustCompile(`(?m)^` + key + `:(.*)$`).FindSubmatch(text)
	require.NotNil(t, line, "%s", text)
	return strings.Fields(string(line[1]))
}

// idMapOf are the ids outside that a process has.
func idMapOf(t *testing.T, pid int, kind string) (first, size int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s_map", pid, kind))
	require.NoError(t, err)
	inside := 0
	_, err = fmt.Sscan(string(text), &inside, &first, &size)
	require.NoError(t, err)
	require.Zero(t, inside)
	return first, size
}

// stateOf reads that of a container by its name.
func (h *home) stateOf(t *testing.T, name string) container.State {
	t.Helper()
	id := strings.TrimSpace(h.ok(t, "inspect", "-f", "{{.Id}}", name))
	raw, err := os.ReadFile(filepath.Join(h.root, "containers", id, "state.json"))
	require.NoError(t, err)
	var s container.State
	require.NoError(t, json.Unmarshal(raw, &s))
	return s
}

// TestOwnUserns: seen from this machine the processes of root's containers with
// --userns=auto are nobody's, with ids that those of no other container have; and nothing
// of one is left when its supervisor is killed.
func TestOwnUserns(t *testing.T) {
	testenv.Root(t)
	testenv.FUSE(t)
	testenv.CheckLeaks(t)
	h := newHome(t, nil)
	var group sync.WaitGroup
	const crowd = 6
	for i := range crowd {
		group.Go(func() {
			if out, code := h.run(t, "run", "-d", "--name", fmt.Sprintf("c%d", i), "--userns=auto:size=1000", "small:1", "sleep", "600"); code != 0 {
				t.Errorf("%s", out)
			}
		})
	}
	group.Wait()
	taken := map[int]bool{}
	for i := range crowd {
		pid, err := strconv.Atoi(strings.TrimSpace(h.ok(t, "inspect", "-f", "{{.State.Pid}}", fmt.Sprintf("c%d", i))))
		require.NoError(t, err)
		uid, size := idMapOf(t, pid, "uid")
		gid, _ := idMapOf(t, pid, "gid")
		require.Equal(t, 1000, size)
		require.Equal(t, []string{strconv.Itoa(uid), strconv.Itoa(uid), strconv.Itoa(uid), strconv.Itoa(uid)}, statusOf(t, pid, "Uid"))
		require.Equal(t, strconv.Itoa(gid), statusOf(t, pid, "Gid")[0])
		require.False(t, taken[uid], "two have %d", uid)
		taken[uid] = true
	}

	h.ok(t, "rm", "-f", "c0")
	h.ok(t, "create", "--name", "late", "--userns=auto:size=1000", "small:1", "true")
	h.ok(t, "start", "-a", "late")
	first := h.ok(t, "exec", "-u", "7", "c1", "cat", "/proc/self/uid_map")
	state := h.stateOf(t, "c1")
	h.ok(t, "exec", "-d", "c1", "sleep", "600")
	require.NoError(t, unix.Kill(state.Supervisor.Pid, unix.SIGKILL))
	testenv.Eventually(t, "the container ends with its supervisor", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", state.Init.Pid))
		return err != nil
	})
	require.Equal(t, "exited 137\n", h.ok(t, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "c1"))
	h.ok(t, "start", "c1")
	require.Equal(t, first, h.ok(t, "exec", "c1", "cat", "/proc/self/uid_map"), "a container keeps its ids")
}

// TestContainersUser: the ids are from those that are granted to the user containers, if
// there are some; else they are none that are granted to anybody.
func TestContainersUser(t *testing.T) {
	testenv.Root(t)
	testenv.FUSE(t)
	testenv.CheckLeaks(t)
	h := newHome(t, nil)
	grant := func(line string) string {
		return `dir=$(mktemp -d); echo ` + line + ` >"$dir/ids"; for f in /etc/subuid /etc/subgid; do touch $f; mount --bind "$dir/ids" $f; done; rm -r "$dir"`
	}
	show := []string{"run", "--rm", "--userns=auto", "small:1", "cat", "/proc/self/uid_map", "/proc/self/gid_map"}
	require.Regexp(t, `^( +0 +300000 +65536\n){2}$`, h.manage(t, grant("containers:300000:100000"), show...))
	require.Regexp(t, `^( +0 +1879048292 +65536\n){2}$`, h.manage(t, grant("other:1879048192:100"), show...))
	h.manage(t, grant("containers:300000:100000"), "create", "--name", "first", "--userns=auto", "small:1", "true")
	out, code := h.without(t, grant("containers:300000:100000"), show...)
	require.Equal(t, 125, code)
	require.Contains(t, out, "not enough unused IDs in user namespace")
}

// TestOwnUsernsNoFUSE: overlayfs can not show owners as those of a user namespace, and that is
// said.
func TestOwnUsernsNoFUSE(t *testing.T) {
	testenv.Root(t)
	testenv.CheckLeaks(t)
	h := newHome(t, nil)
	out, code := h.without(t, emptyDev, "run", "--rm", "--userns=auto", "small:1", "true")
	require.Equal(t, 125, code)
	require.Contains(t, out, "it can not show owners as those of another user namespace: leave out --userns")
}

// TestKilledHostPID: nothing that a container with --pid host has started outlives its supervisor.
func TestKilledHostPID(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		mark := fmt.Sprint(2_000_000_000 + os.Getpid()) // seconds that nobody else sleeps
		script := fmt.Sprintf("sleep %[1]s & setsid sleep %[1]s & (sleep %[1]s &); echo ready; exec sleep %[1]s", mark)
		cmd, out := h.start(t, "--name", "first", "--pid", "host", "small:1", "sh", "-c", script)
		h.isUp(t)
		h.ok(t, "exec", "-d", "first", "sleep", mark)
		sleepers := func() (n int) {
			lists, err := filepath.Glob("/proc/[0-9]*/cmdline")
			require.NoError(t, err)
			for _, list := range lists {
				if line, _ := os.ReadFile(list); string(line) == "sleep\x00"+mark+"\x00" { // it may have ended
					n++
				}
			}
			return n
		}
		testenv.Eventually(t, "all of them sleep", func() bool { return sleepers() == 5 })
		require.NoError(t, unix.Kill(h.state(t).Supervisor.Pid, unix.SIGKILL))
		_, err := io.ReadAll(out)
		require.NoError(t, err)
		require.Equal(t, 137, exitCode(t, cmd.Wait()))
		testenv.Eventually(t, "none is left", func() bool { return sleepers() == 0 })
	})
}
