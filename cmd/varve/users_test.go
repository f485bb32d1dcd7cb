package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// attendants are the children of the supervisor of a container with this name: clerks walk paths,
// tellers tell whose files are.
func attendants(t *testing.T, supervisor int, name string) []int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", supervisor))
	require.NoError(t, err)
	var found []int
	for _, list := range lists {
		children, _ := os.ReadFile(list) // a thread may have ended
		for child := range strings.FieldsSeq(string(children)) {
			line, _ := os.ReadFile("/proc/" + child + "/cmdline") // so may a child
			if pid, err := strconv.Atoi(child); err == nil && strings.HasPrefix(string(line), name+"\x00") {
				found = append(found, pid)
			}
		}
	}
	return found
}

// tarOwners reads whose the files of a tar are, by name.
func tarOwners(t *testing.T, data string) map[string][2]int {
	t.Helper()
	return ownersIn(t, strings.NewReader(data))
}

func ownersIn(t *testing.T, data io.Reader) map[string][2]int {
	t.Helper()
	owners := map[string][2]int{}
	for r := tar.NewReader(data); ; {
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
	require.Empty(t, attendants(t, supervisor, "varve-clerk"), "nobody has asked for anything")

	h.ok(t, "exec", "long", "sh", "-c", "touch /x; chown 33:44 /x")
	first := attendants(t, supervisor, "varve-clerk")
	require.Len(t, first, 1)
	require.NoError(t, unix.Kill(first[0], unix.SIGKILL))
	h.ok(t, "exec", "long", "sh", "-c", "touch /y; chown 35:36 /y")
	require.Len(t, attendants(t, supervisor, "varve-clerk"), 1)

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

	endsWith(t, supervisor, attendants(t, supervisor, "varve-clerk"))
}

// endsWith kills a supervisor, and waits for its only helper to end.
func endsWith(t *testing.T, supervisor int, helper []int) {
	t.Helper()
	require.Len(t, helper, 1)
	require.NoError(t, unix.Kill(supervisor, unix.SIGKILL))
	testenv.Eventually(t, "the helper ends with its supervisor", func() bool {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", helper[0]))
		return err != nil || strings.Contains(string(state), ") Z ")
	})
}

// buildAsker builds testdata/asker where a user can read it.
func buildAsker(t *testing.T, u testenv.User) string {
	t.Helper()
	asker := filepath.Join(u.Dir(t), "asker")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", asker, "./testdata/asker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return asker
}

// TestTeller: with a single id a process comes when somebody first asks whose a file is that is not
// root's. It tells threads that get signals, that are killed and stopped, and whose process
// goes to another program; another one comes when it is killed, and none outlives the
// supervisor.
func TestTeller(t *testing.T) {
	testenv.FUSE(t)
	u := testenv.Single(t)
	testenv.CheckLeaks(t)
	h := newHome(t, &u)
	asker := buildAsker(t, u)
	h.ok(t, "run", "-d", "--name", "long", "-v", asker+":/asker", "small:1", "sleep", "600")
	supervisor := h.state(t).Supervisor.Pid
	h.ok(t, "exec", "long", "sh", "-ec", "touch /root /x; stat /root /x; chown 33:44 /x; mkdir /d; touch /d/root; chown 5:6 /d")
	require.Empty(t, attendants(t, supervisor, "varve-teller"), "nobody has asked about a file that is not root's")

	require.Equal(t, "33:44\n", h.ok(t, "exec", "long", "stat", "-c", "%u:%g", "/x"))
	first := attendants(t, supervisor, "varve-teller")
	require.Len(t, first, 1)
	require.NoError(t, unix.Kill(first[0], unix.SIGKILL))
	require.Equal(t, "33:44\n", h.ok(t, "exec", "long", "stat", "-c", "%u:%g", "/x"))

	require.Equal(t, "told 80 of 80\n", h.ok(t, "exec", "long", "/asker", "threads", "/x", "33"))
	require.Equal(t, "told 80 of 80\n", h.ok(t, "exec", "long", "/asker", "threads", "/d/root", "0"))
	for range 3 {
		h.ok(t, "exec", "long", "/asker", "leave", "/x")
	}
	h.ok(t, "exec", "long", "sh", "-ec", `mkfifo /said
		for i in 1 2; do
			/asker hang /x >/said & read ready </said
			kill -STOP $!; stat -c %u /x; kill -CONT $!; kill -KILL $!
			wait $! || test $? = 137
		done`)
	for _, owner := range []string{"4294967294:2147483648", "0:0"} {
		require.Equal(t, owner+"\n", h.ok(t, "exec", "long", "sh", "-c", "chown "+owner+" /x; stat -c %u:%g /x"))
	}
	endsWith(t, supervisor, attendants(t, supervisor, "varve-teller"))
}
