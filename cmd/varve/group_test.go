package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/cgroup"
	"github.com/varvefs/varve/internal/engine"
	"github.com/varvefs/varve/internal/testenv"
)

// needGroups skips the test where root can make no control group of version 2.
func needGroups(t *testing.T) {
	t.Helper()
	host, err := cgroup.Find()
	require.NoError(t, err)
	if g, _ := host.Plan("varve-test", cgroup.Limits{}); testenv.IsRoot() && g.Unified == "" {
		t.Skip("needs a writable control group tree of version 2: run `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified` as root")
	}
}

// TestGroup: the programs of a container are in a group of its own, whose root it
// is for them, and which goes with the container, whatever ends it.
func TestGroup(t *testing.T) {
	needGroups(t)
	eachUser(t, func(t *testing.T, h *home) {
		for _, killed := range []bool{false, true} {
			cmd, out := h.start(t, "--name", "first", "small:1", "sh", "-c", "all=$(cat /proc/self/cgroup); echo ready; echo \"$all\"; echo end; sleep 1000")
			text := readUntil(t, out, "end\n")
			h.isUp(t)
			s := h.state(t)
			if h.user == nil {
				require.NotEmpty(t, s.Group.Unified)
			}
			if s.Group.Unified != "" { // an ordinary user has one by delegation only
				pids, err := os.ReadFile(filepath.Join(s.Group.Unified, "cgroup.procs"))
				require.NoError(t, err)
				require.Contains(t, strings.Fields(string(pids)), fmt.Sprint(s.Init.Pid))
				require.NotContains(t, strings.Fields(string(pids)), fmt.Sprint(s.Supervisor.Pid))
			}
			if killed {
				require.NoError(t, unix.Kill(s.Supervisor.Pid, unix.SIGKILL))
			} else {
				require.NoError(t, unix.Kill(s.Init.Pid, unix.SIGKILL))
			}
			if h.user == nil {
				require.Contains(t, text, "0::/\n")
			}
			require.Equal(t, 137, exitCode(t, cmd.Wait()))
			if s.Group.Unified != "" {
				require.Eventually(t, func() bool {
					h.ok(t, "ps", "-a") // sweeps, as soon as the last process has ended
					_, err := os.Stat(s.Group.Unified)
					return err != nil
				}, time.Minute, 10*time.Millisecond)
			}
			h.ok(t, "rm", "-f", "first")
		}
	})
}

// readUntil reads until it has read end, and returns it all.
func readUntil(t *testing.T, r io.Reader, end string) string {
	t.Helper()
	var all []byte
	for one := make([]byte, 1); !strings.HasSuffix(string(all), end); all = append(all, one...) {
		_, err := io.ReadFull(r, one)
		require.NoError(t, err)
	}
	return string(all)
}

// TestPause stops a container from outside, removes one that is stopped, and finds
// no other way to be wrong than docker's.
func TestPause(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	testenv.CheckLeaks(t)
	h := newHome(t, nil)
	e, err := engine.Open(h.root)
	require.NoError(t, err)
	_, err = e.Pause("first")
	require.ErrorContains(t, err, "No such container: first")
	cmd, _ := h.start(t, "--name", "first", "small:1", "sh", "-c", "echo ready; while :; do echo x >> /lines; done")
	h.isUp(t)
	lines := filepath.Join(filepath.Dir(h.stateFile(t)), "upper/lines")
	size := func() int64 {
		info, err := os.Stat(lines)
		require.NoError(t, err)
		return info.Size()
	}
	require.ErrorContains(t, e.Unpause("first"), "is not paused")
	for range 3 {
		warning, err := e.Pause("first")
		require.NoError(t, err)
		require.Equal(t, h.state(t).Group.IsZero(), warning != nil)
		_, err = e.Pause("first")
		require.ErrorContains(t, err, "is already paused")
		before := size()
		time.Sleep(20 * time.Millisecond)
		require.Equal(t, before, size())
		require.NoError(t, e.Unpause("first"))
		testenv.Eventually(t, "it goes on", func() bool { return size() > before })
	}
	_, err = e.Pause("first")
	require.NoError(t, err)
	require.Equal(t, "first\n", h.ok(t, "rm", "-f", "first"))
	require.Equal(t, 137, exitCode(t, cmd.Wait()))
	h.ok(t, "run", "--name", "second", "small:1", "true")
	_, err = e.Pause("second")
	require.ErrorContains(t, err, "is not running")
}

// TestLimits: they hold by a control group for root, and for ordinary users, who
// have none here, by what stands in for it, and that is said.
func TestLimits(t *testing.T) {
	needGroups(t)
	eachUser(t, func(t *testing.T, h *home) {
		out, code := h.run(t, "run", "--rm", "--pids-limit", "6", "small:1", "sh", "-c",
			"for i in 1 2 3 4 5 6 7 8; do sleep 2 & done; echo all")
		require.NotZero(t, code, out)
		require.Contains(t, out, "can't fork")
		require.NotContains(t, out, "all\n")
		out = h.ok(t, "run", "--rm", "--cpuset-cpus", "0", "small:1", "grep", "Cpus_allowed_list", "/proc/self/status")
		require.Contains(t, out, "Cpus_allowed_list:\t0\n")
		// None of them can be changed from inside, nor anything else of the groups (CVE-2022-0492).
		out = h.ok(t, "run", "--rm", "--pids-limit", "50", "small:1", "sh", "-c",
			"find /sys/fs/cgroup -type f | while read f; do (: >> $f) 2>/dev/null && echo $f; done; find /sys/fs/cgroup -name pids.max; echo end")
		require.Regexp(t, `^(varve: .*\n)?(/sys/fs/cgroup/(pids/)?pids.max\n)?end\n$`, out)
		if h.user == nil {
			require.Contains(t, out, "pids.max\n")
		}
		out, code = h.run(t, "run", "--name", "hog", "-m", "16m", "small:1", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
		if warned := strings.Contains(out, "no control group with the controllers memory is to be had here"); !warned {
			require.Equal(t, 137, code, out)
			require.Equal(t, "true\n", h.ok(t, "inspect", "-f", "{{.State.OOMKilled}}", "hog"))
			require.Contains(t, h.ok(t, "events", "--since", "1h", "--until", "0s", "-f", "container=hog", "--format", "{{.Action}}"), "start\noom\ndie\n")
		} else {
			require.NotNil(t, h.user, "root has one")
			require.Contains(t, out, "out of memory")
			require.Equal(t, 1, code, out)
		}
		out = h.ok(t, "run", "--rm", "--ulimit", "nofile=100:200", "--ulimit", "core=0", "small:1", "sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c")
		require.Equal(t, "100\n200\n0\n", out)
		h.ok(t, "rm", "hog")
	})
}

// kernelLimit is a limit where the kernel keeps it: in version 1, and in version 2, where
// some are not.
type kernelLimit struct{ controller, file, value, file2, value2 string }

// TestLimitsReachTheKernel reads the limits of a running container where they are kept,
// and again when it was stopped and started.
func TestLimitsReachTheKernel(t *testing.T) {
	needGroups(t)
	testenv.Root(t)
	testenv.CheckLeaks(t)
	h := newHome(t, nil)
	for _, c := range []struct {
		flags string
		want  []kernelLimit
	}{
		{"-m 64m --memory-swap 96m --cpus 0.5 -c 512 --cpuset-cpus 0 --pids-limit 50", []kernelLimit{
			{"memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"},
			{"memory", "memory.memsw.limit_in_bytes", "100663296", "memory.swap.max", "33554432"},
			{"cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"},
			{"cpu", "cpu.shares", "512", "cpu.weight", "20"},
			{"cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"},
			{"pids", "pids.max", "50", "pids.max", "50"},
		}},
		{"-m 64m --memory-reservation 32m --memory-swappiness 7 --oom-kill-disable --cpu-period 50000 --cpu-quota 25000 --cpuset-mems 0", []kernelLimit{
			{"memory", "memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432"},
			{"memory", "memory.swappiness", "7", "", ""},
			{"memory", "memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 0", "", ""},
			{"cpu", "cpu.cfs_period_us", "50000", "cpu.max", "25000 50000"},
			{"cpu", "cpu.cfs_quota_us", "25000", "cpu.max", "25000 50000"},
			{"cpuset", "cpuset.mems", "0", "cpuset.mems", "0"},
		}},
	} {
		cmd, _ := h.start(t, append(append([]string{"--name", "first"}, strings.Fields(c.flags)...), "small:1", "sh", "-c", "echo ready; sleep 1000")...)
		h.isUp(t)
		g := h.state(t).Group
		requireLimits(t, g, c.want)
		h.ok(t, "kill", "first")
		require.Equal(t, 137, exitCode(t, cmd.Wait()))
		for _, dir := range append(g.Joined(), g.Unified) {
			require.NoDirExists(t, dir)
		}
		h.ok(t, "start", "first")
		requireLimits(t, h.state(t).Group, c.want)
		h.ok(t, "rm", "-f", "first")
	}
}

func requireLimits(t *testing.T, g cgroup.Group, list []kernelLimit) {
	t.Helper()
	for _, want := range list {
		dir, file, value := g.V1[want.controller], want.file, want.value
		if dir == "" {
			dir, file, value = g.Unified, want.file2, want.value2
		}
		if file == "" {
			continue // version 2 has none
		}
		raw, err := os.ReadFile(filepath.Join(dir, file))
		if os.IsNotExist(err) && strings.Contains(file, "sw") {
			continue // a kernel that counts no swap
		}
		require.NoError(t, err)
		require.Equal(t, value, strings.TrimSpace(string(raw)), file)
	}
}
