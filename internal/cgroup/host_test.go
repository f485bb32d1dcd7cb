package cgroup

import (
	"testing"

	"github.com/stretchr/testify/require"
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
