package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// standIn is a directory with the files of a group of version 2.
func standIn(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	all := map[string]string{"cgroup.controllers": "cpu memory", "cgroup.subtree_control": "", procsName: ""}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
}

// To switch cpu on beside processes makes a threaded tree, in whose new groups no process
// can be born; so it is done above.
func TestPlaceMakesNoThreadedTree(t *testing.T) {
	top := t.TempDir()
	own := filepath.Join(top, "own")
	standIn(t, top, nil)
	standIn(t, own, map[string]string{typeName: "domain\n", procsName: "1\n"})
	dir, found := tree{top, own}.place([]string{"cpu"})
	require.True(t, found)
	require.Equal(t, top, dir)
	require.Empty(t, read(own, "cgroup.subtree_control"))
	require.Equal(t, []string{"+cpu"}, read(top, "cgroup.subtree_control"))

	dir, found = tree{top, own}.place(nil)
	require.True(t, found)
	require.Equal(t, own, dir, "without limits a group can be beside processes")
}

// In a threaded tree that is there already nothing can be limited, and it is told.
func TestPlanLeavesThreadedTreesAlone(t *testing.T) {
	top := t.TempDir()
	own := filepath.Join(top, "own")
	threaded := map[string]string{typeName: "domain threaded\n", "cgroup.subtree_control": "cpu\n"}
	standIn(t, top, nil)
	standIn(t, own, threaded)
	for _, wanted := range [][]string{nil, {"cpu"}} {
		dir, found := tree{top, own}.place(wanted)
		require.True(t, found)
		require.Equal(t, top, dir)
	}

	group, missing := Host{unified: tree{own, own}}.Plan("name", Limits{NanoCPUs: 1e9})
	require.Empty(t, group.Unified)
	require.Equal(t, []string{"cpu"}, missing)
}

// Who starts a container in a group that systemd has delegated steps aside in it at once,
// with the supervisor, which would be in the way of limits.
func TestPlaceStepsAsideWhereItIsDelegated(t *testing.T) {
	supervisor := exec.Command("sleep", "1000")
	supervisor.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, supervisor.Start())
	defer func() {
		require.NoError(t, supervisor.Process.Kill())
		_ = supervisor.Wait() // killed
	}()
	for _, is := range []string{"1", "0"} {
		top := t.TempDir()
		own := filepath.Join(top, "own")
		standIn(t, top, nil)
		standIn(t, own, map[string]string{typeName: "domain\n", procsName: fmt.Sprintf("%d\n%d\n", os.Getpid(), supervisor.Process.Pid)})
		standIn(t, filepath.Join(own, "varve-callers"), nil)
		if err := unix.Setxattr(own, "user.delegate", []byte(is), 0); err != nil {
			t.Skip("needs user attributes in the directory of temporary files: ", err)
		}
		dir, found := tree{top, own}.place(nil)
		require.True(t, found)
		require.Equal(t, own, dir)
		moved := read(filepath.Join(own, "varve-callers"), procsName)
		require.Equal(t, is == "1", len(moved) == 1, moved)
	}
}

// The others of a pipeline are in the way, but not in what was delegated to all of it.
func TestFamily(t *testing.T) {
	shell := exec.Command("sh", "-c", "sleep 1000 & echo $!; sleep 1000 & echo $!; wait")
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := shell.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, shell.Start())
	defer func() {
		require.NoError(t, unix.Kill(-shell.Process.Pid, unix.SIGKILL))
		_ = shell.Wait() // killed
	}()
	var left, right int
	_, err = fmt.Fscan(out, &left, &right)
	require.NoError(t, err)
	all := []string{fmt.Sprint(right), fmt.Sprint(shell.Process.Pid), fmt.Sprint(left)}
	require.True(t, family(all, left, true))
	require.False(t, family(all, left, false))
	require.True(t, family(all[1:], left, false))
	require.True(t, family(all, shell.Process.Pid, false), "its own children")
	require.False(t, family(all[:1], left, true), "nobody of them is an ancestor")
}

// Limits of processors are systemd's to take away, but for what it has delegated.
func TestPassing(t *testing.T) {
	top := t.TempDir()
	all := []string{"cpu", "cpuset", "memory", "pids"}
	in := func(dir string) Group {
		require.NoError(t, os.MkdirAll(filepath.Join(top, dir), 0o755))
		return Group{Unified: filepath.Join(top, dir, "varve"), Controllers: all}
	}
	service := in("system.slice/one.service")
	require.Equal(t, []string{"cpu", "cpuset"}, service.passing(top))
	require.Equal(t, []string{"cpu", "cpuset", "memory", "pids"}, all)
	require.Empty(t, service.passing(filepath.Join(top, "no-systemd")))
	require.Empty(t, Group{Controllers: all}.passing(top))
	require.NotEmpty(t, in("user@1000.service/app.slice").passing(top))
	for _, dir := range []string{"system.slice/one.service", "user@1000.service"} {
		if err := unix.Setxattr(filepath.Join(top, dir), "user.delegate", []byte("1"), 0); err != nil {
			t.Skip("needs user attributes in the directory of temporary files: ", err)
		}
	}
	require.Empty(t, service.passing(top))
	require.NotEmpty(t, in("user@1000.service/app.slice").passing(top))
}

// What a user's manager was asked for stands in the unit that it has made.
func TestAskedFor(t *testing.T) {
	run := t.TempDir()
	units := filepath.Join(run, "1000/systemd/transient")
	require.NoError(t, os.MkdirAll(units, 0o755))
	const slice = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice"
	for text, want := range map[string]bool{"Delegate=yes": true, "Delegate=cpu memory": true, "Delegate=no": false, "Slice=app.slice": false} {
		require.NoError(t, os.WriteFile(filepath.Join(units, "one.scope"), []byte("[Scope]\n"+text+"\n"), 0o600))
		require.Equal(t, want, askedFor(run, slice+"/one.scope"), text)
	}
	require.NoError(t, os.WriteFile(filepath.Join(units, "one.scope"), []byte("[Scope]\nDelegate=yes\n"), 0o600))
	for _, dir := range []string{slice, slice + "/two.scope", slice + "/one.scope/varve-callers", "/sys/fs/cgroup/system.slice/one.scope", "/sys/fs/cgroup/user@1000.service"} {
		require.False(t, askedFor(run, dir), dir)
	}
}
