package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

func TestParse(t *testing.T) {
	const hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
		"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n" +
		"34 31 0:31 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n" +
		"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
		"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
	for name, c := range map[string]struct {
		places, mounts string
		unified        tree
		v1             map[string]tree
	}{
		"none": {"", "23 1 8:1 / / rw - ext4 /dev/sda rw\n", tree{}, map[string]tree{}},
		"version 2": {"0::/user.slice/a b\n", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			tree{"/sys/fs/cgroup", "/sys/fs/cgroup/user.slice/a b"}, map[string]tree{}},
		"hybrid": {"4:pids:/x\n3:cpu,cpuacct:/\n1:name=systemd:/s\n0::/s\n", hybrid,
			tree{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/s"},
			map[string]tree{
				"cpu":          {"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"},
				"cpuacct":      {"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"},
				"pids":         {"/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids/x"},
				"name=systemd": {"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/systemd/s"},
			}},
		"a part of the tree, as in a container": {"0::/docker/1/sub\n",
			"30 23 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n",
			tree{"/sys/fs/cgroup", "/sys/fs/cgroup/sub"}, map[string]tree{}},
		"a part that this process is not in": {"0::/docker/1\n",
			"30 23 0:26 /docker/12 /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n",
			tree{"/sys/fs/cgroup", "/sys/fs/cgroup"}, map[string]tree{}},
		"mounted twice": {"0::/a\n", "30 23 0:26 / /one\\040two rw - cgroup2 cgroup2 rw\n31 23 0:26 / /b rw - cgroup2 none rw\n",
			tree{"/one two", "/one two/a"}, map[string]tree{}},
	} {
		h := parse(c.places, c.mounts)
		require.Equal(t, Host{c.unified, c.v1}, h, name)
	}
}

// A controller of version 2 is handed down to where groups can have it; who has no
// hand on it is told so.
func TestPlaceHandsControllersDown(t *testing.T) {
	testenv.Root(t)
	host, err := Find()
	require.NoError(t, err)
	controllers := read(host.unified.mount, "cgroup.controllers")
	if host.unified.mount == "" || len(controllers) == 0 {
		t.Skip("needs a controller in the control group tree of version 2: boot with cgroup_no_v1=hugetlb")
	}
	one := controllers[:1]
	top := filepath.Join(host.unified.mount, fmt.Sprintf("varve-test-place-%d", os.Getpid()))
	require.NoError(t, os.MkdirAll(filepath.Join(top, "own"), 0o755))
	defer func() { require.NoError(t, removeDir(top)) }()
	before := read(host.unified.mount, "cgroup.subtree_control")
	defer func() {
		for _, c := range without(one, before) {
			require.NoError(t, set(host.unified.mount, "cgroup.subtree_control", "-"+c))
		}
	}()
	require.True(t, enable(host.unified.mount, one))
	defer func() { require.NoError(t, set(top, "cgroup.subtree_control", "-"+one[0])) }()

	// Where a process is there are no limits beside it, so the one above is taken.
	cmd := exec.Command("sleep", "1000")
	own, err := os.Open(filepath.Join(top, "own"))
	require.NoError(t, err)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(own.Fd()), Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	require.NoError(t, own.Close())
	defer func() {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
	}()
	require.True(t, enable(top, one))
	dir, found := tree{top, filepath.Join(top, "own")}.place(one)
	require.True(t, found)
	require.Equal(t, top, dir)
	_, found = tree{top, filepath.Join(top, "own")}.place([]string{"no-such-controller"})
	require.False(t, found)
	require.Equal(t, []string{fmt.Sprint(cmd.Process.Pid)}, read(filepath.Join(top, "own"), procsName), "a stranger was not moved")
}
