package runner

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// belongings is what this process has and must not gather.
type belongings struct {
	fds, mounts int
	children    []string
}

// look counts. What Start could leave is mounted below root, or in the kernel's own
// directories, were they the host's; all else is of other packages' tests, which run at the
// same time.
func look(t *testing.T, root string) (b belongings) {
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	b.fds = len(fds)
	for line := range strings.Lines(string(mounts)) {
		point := strings.Fields(line)[4]
		for _, dir := range []string{root, "/proc", "/sys", "/dev"} {
			if strings.HasPrefix(point, dir) && (dir == root || !strings.HasPrefix(point, "/dev/shm/")) {
				b.mounts++
			}
		}
	}
	tasks, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	for _, task := range tasks {
		list, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%s/children", task.Name()))
		if os.IsNotExist(err) {
			continue // the thread has ended
		}
		require.NoError(t, err)
		b.children = append(b.children, strings.Fields(string(list))...)
	}
	return b
}

func TestNothingIsLeftBehind(t *testing.T) {
	needRoot(t)
	root := busyboxRoot(t)
	configs := []Config{sh(root, "exit 0"), sh(root, "sleep 1000 & sleep 0.1; exit 1"),
		{Root: root, Args: []string{"no-such-program"}}, sh(root, "tty"),
		withMounts(sh(root, "true"), Mount{Source: t.TempDir(), Target: "/v"}),
		withMounts(sh(root, "true"), Mount{Source: "/no/such/thing", Target: "/v"})}
	configs[3].Terminal = true
	once := func() {
		for _, cfg := range configs {
			p, err := Start(cfg)
			if err != nil {
				continue
			}
			_, err = p.Wait()
			require.NoError(t, err)
			if p.Console() != nil {
				require.NoError(t, p.Console().Close())
			}
		}
	}
	once() // the first time Go opens its poller
	before := look(t, root)
	for range 100 / len(configs) {
		once()
	}
	require.Equal(t, before, look(t, root))
}
