package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// busy is a tree of processes that come and go; each round adds a line to the
// file $0.
const busy = `(while :; do sh -c 'echo x >> "$0"' "$0"; done) & while :; do (: ) ; done`

// ways are the ways to freeze that this process has: a group as Plan gives it, and
// what is left of it when version 2, and then version 1, is taken away.
func ways(t *testing.T, name string) map[string]Group {
	t.Helper()
	host, err := Find()
	require.NoError(t, err)
	list := map[string]Group{"signals": {}}
	if g, _ := host.Plan(name, Limits{}); g.Unified != "" {
		list["version 2"] = g
	}
	host.unified = tree{}
	if g, _ := host.Plan(name, Limits{}); g.Freezer != "" {
		list["version 1"] = g
	}
	return list
}

func TestFreeze(t *testing.T) {
	for way, g := range ways(t, fmt.Sprintf("varve-test-freeze-%d", os.Getpid())) {
		t.Run(way, func(t *testing.T) {
			testenv.CheckLeaks(t)
			g, err := g.Make(Limits{})
			require.NoError(t, err)
			file := filepath.Join(t.TempDir(), "lines")
			cmd := startBusy(t, g, file)
			init := cmd.Process.Pid
			defer func() {
				_ = unix.Kill(-init, unix.SIGKILL) // a group of its own
				_ = cmd.Wait()                     // killed
				require.NoError(t, g.Remove())
				for _, dir := range g.dirs() {
					require.NoDirExists(t, dir)
				}
			}()
			grows(t, file)
			for range 5 {
				err := g.Freeze(init, time.Minute)
				if way == "signals" {
					require.ErrorIs(t, err, ErrSignals)
				} else {
					require.NoError(t, err)
				}
				require.True(t, g.Frozen(init))
				before := size(t, file)
				time.Sleep(20 * time.Millisecond)
				require.Equal(t, before, size(t, file), "something ran on")
				require.NoError(t, g.Thaw(init))
				require.False(t, g.Frozen(init))
				grows(t, file)
			}
		})
	}
}

// startBusy starts the busy tree in the group, in a pid namespace if it may.
func startBusy(t *testing.T, g Group, file string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", busy, file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if testenv.IsRoot() {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID
	}
	dir, err := g.Open()
	require.NoError(t, err)
	if dir != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		defer func() { require.NoError(t, dir.Close()) }()
	}
	require.NoError(t, cmd.Start())
	return cmd
}

func size(t *testing.T, file string) int64 {
	t.Helper()
	info, err := os.Stat(file)
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	require.NoError(t, err)
	return info.Size()
}

func grows(t *testing.T, file string) {
	t.Helper()
	before := size(t, file)
	testenv.Eventually(t, "the processes run", func() bool { return size(t, file) > before })
}

// A group may be frozen by who has not started it, in a subtree of version 2 that
// was delegated to an ordinary user; without one there are signals.
func TestFreezeAsOrdinaryUser(t *testing.T) {
	testenv.Root(t)
	u := testenv.Single(t)
	bin := u.Give(t, "/proc/self/exe")
	for _, delegated := range []bool{false, true} {
		cmd := u.Command(context.Background(), bin, "-test.run=^TestFreeze$", "-test.v")
		cmd.Env = append(cmd.Env, "TMPDIR="+u.Dir(t))
		if delegated {
			dir := delegate(t, u)
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, delegated, strings.Contains(string(out), "--- PASS: TestFreeze/version_2"), "%s", out)
	}
}

// delegate makes a group of version 2 that the user may make others in, until the
// test ends.
func delegate(t *testing.T, u testenv.User) *os.File {
	t.Helper()
	host, err := Find()
	require.NoError(t, err)
	if host.unified.mount == "" {
		t.Skip("needs a control group tree of version 2: run `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified` as root")
	}
	dir := filepath.Join(host.unified.own, "varve-test-"+strconv.Itoa(u.UID))
	require.NoError(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { require.NoError(t, removeDir(dir)) })
	for _, name := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
		require.NoError(t, os.Chown(filepath.Join(dir, name), u.UID, u.GID))
	}
	f, err := os.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

func TestRemoveTakesInnerGroups(t *testing.T) {
	testenv.Root(t)
	host, err := Find()
	require.NoError(t, err)
	g, _ := host.Plan(fmt.Sprintf("varve-test-remove-%d", os.Getpid()), Limits{})
	g, err = g.Make(Limits{})
	require.NoError(t, err)
	require.NotEmpty(t, g.Unified)
	require.NoError(t, os.MkdirAll(filepath.Join(g.Unified, "a/b"), 0o755))
	require.NoError(t, g.Remove())
	require.NoDirExists(t, g.Unified)
	require.NoError(t, g.Remove(), "again")
	require.NoError(t, Group{}.Remove())
}
