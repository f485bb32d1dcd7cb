package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// clerks are the processes that walk paths for the supervisor of a container.
func clerks(t *testing.T, supervisor int) []int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", supervisor))
	require.NoError(t, err)
	var found []int
	for _, list := range lists {
		children, _ := os.ReadFile(list) // a thread may have ended
		for child := range strings.FieldsSeq(string(children)) {
			line, _ := os.ReadFile("/proc/" + child + "/cmdline") // so may a child
			if pid, err := strconv.Atoi(child); err == nil && strings.HasPrefix(string(line), "varve-clerk\x00") {
				found = append(found, pid)
			}
		}
	}
	return found
}

// tarOwners reads whose the files of a tar are, by name.
func tarOwners(t *testing.T, data string) map[string][2]int {
	t.Helper()
	owners := map[string][2]int{}
	for r := tar.NewReader(strings.NewReader(data)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return owners
		}
		require.NoError(t, err)
		owners[strings.TrimPrefix(header.Name, "./")] = [2]int{header.Uid, header.Gid}
	}
}

// TestClerk: with a single id a process comes when the first file is given away, another
// one when that is killed, and none outlives the supervisor.
func TestClerk(t *testing.T) {
	testenv.FUSE(t)
	u := testenv.Single(t)
	testenv.CheckLeaks(t)
	h := newHome(t, &u)
	h.ok(t, "run", "-d", "--name", "long", "small:1", "sleep", "600")
	supervisor := h.state(t).Supervisor.Pid
	require.Empty(t, clerks(t, supervisor), "nobody has asked for anything")

	h.ok(t, "exec", "long", "sh", "-c", "touch /x; chown 33:44 /x")
	first := clerks(t, supervisor)
	require.Len(t, first, 1)
	require.NoError(t, unix.Kill(first[0], unix.SIGKILL))
	h.ok(t, "exec", "long", "sh", "-c", "touch /y; chown 35:36 /y")
	require.Len(t, clerks(t, supervisor), 1)

	t.Run("many at once", func(t *testing.T) {
		var wait sync.WaitGroup
		for i := range 8 {
			wait.Go(func() {
				out, code := h.run(t, "exec", "long", "sh", "-ec", fmt.Sprintf(
					"mkdir /d%d; for n in $(seq 50); do touch /d%d/$n; chown $((1000+n)):%d /d%d/$n; done", i, i, i+1, i))
				if code != 0 {
					t.Errorf("%s", out)
				}
			})
		}
		wait.Wait()
	})
	list := tarOwners(t, h.ok(t, "export", "long"))
	for i := range 8 {
		for n := 1; n <= 50; n++ {
			require.Equal(t, [2]int{1000 + n, i + 1}, list[fmt.Sprintf("d%d/%d", i, n)])
		}
	}
	require.Equal(t, [2]int{33, 44}, list["x"])
	require.Equal(t, [2]int{35, 36}, list["y"])

	last := clerks(t, supervisor)
	require.NoError(t, unix.Kill(supervisor, unix.SIGKILL))
	testenv.Eventually(t, "the clerk ends with its supervisor", func() bool {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", last[0]))
		return err != nil || strings.Contains(string(state), ") Z ")
	})
}
