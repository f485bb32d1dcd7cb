package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// TestKilledLives kills, VARVE_KILLED times (10) for each kind of user, the process of a
// verb, a supervisor, the first process of a container, or the watch over it, each drawn
// anew and at a moment drawn anew, while a container is run, started, stopped, paused,
// executed in or removed. After each, ps tells the truth, nothing is left over, and what
// the container had written is whole.
func TestKilledLives(t *testing.T) {
	rounds := fromEnv(t, "VARVE_KILLED", 10)
	eachUser(t, func(t *testing.T, h *home) {
		l := &lives{home: h}
		l.ok(t, "create", "--name", "old", "small:1", "sh", "-c", counting)
		for range rounds {
			l.round(t)
		}
		require.NotZero(t, l.killed, "nothing was killed")
		t.Logf("%d rounds, %d processes killed, counted to %d", rounds, l.killed, l.count)
		l.ok(t, "rm", "-f", "old")
		require.Contains(t, l.ok(t, "system", "check"), "0 problems")
	})
}

// counting writes numbers that grow, each as a whole file.
const counting = "n=$(cat /n || echo 0); while :; do n=$((n+1)); echo $n > /new; mv /new /n; done 2>/dev/null"

type lives struct {
	*home
	killed int
	count  int // what the container "old" had counted to, at least
}

func (l *lives) round(t *testing.T) {
	verbs := [][]string{
		{"run", "-d", "--name", "new", "small:1", "sleep", "1000"}, {"run", "--rm", "--name", "new", "small:1", "sleep", "0.05"},
		{"run", "-d", "--restart", "always", "--name", "new", "small:1", "true"},
		{"start", "old"}, {"stop", "-t", "0", "old"}, {"restart", "-t", "0", "old"}, {"kill", "old"},
		{"exec", "old", "sleep", "0.05"}, {"pause", "old"}, {"unpause", "old"}, {"rm", "-f", "new"},
	}
	if rand.N(2) == 0 {
		l.ok(t, "start", "old")
	}
	verb := verbs[rand.N(len(verbs))]
	victim := []string{"verb", "supervisor", "process 1", "watch"}[rand.N(4)]
	what := fmt.Sprintf("%v, %s killed", verb, victim)

	cmd := l.command(t.Context(), verb...)
	require.NoError(t, cmd.Start(), what)
	time.Sleep(rand.N(120 * time.Millisecond)) // the moment; any will do
	if victim == "verb" {
		_ = cmd.Process.Kill() // it may have ended
		l.killed++
	} else {
		l.kill(t, victim)
	}
	_ = cmd.Wait() // its answer depends on who came first

	l.check(t, what)
	_, _ = l.run(t, "rm", "-f", "new") // there may be none
	_, _ = l.run(t, "unpause", "old")  // it may not be
	l.ok(t, "start", "old")
	testenv.Eventually(t, "old runs: "+what, func() bool { return l.counted(t) > l.count })
	l.count = l.counted(t)
	l.ok(t, "stop", "-t", "0", "old")
	l.check(t, what+", then stopped")
}

// kill ends one process of each container that has it.
func (l *lives) kill(t *testing.T, victim string) {
	for _, s := range l.supervisors(t) {
		pid := s.pid
		switch victim {
		case "process 1":
			pid = firstChild(t, pid)
		case "watch":
			pid, _ = strconv.Atoi(childNamed(t, pid, "varve-watch"))
		}
		if pid > 1 && unix.Kill(pid, unix.SIGKILL) == nil {
			l.killed++
		}
	}
}

// check holds what ps says against the processes that there are.
func (l *lives) check(t *testing.T, what string) {
	t.Helper()
	said := ""
	truth := func() bool {
		said = l.ok(t, "ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}}")
		up := map[string]bool{}
		for line := range strings.Lines(said) {
			id, state, _ := strings.Cut(strings.TrimSpace(line), " ")
			up[id] = state == "running" || state == "paused" || state == "restarting"
		}
		for _, s := range l.supervisors(t) {
			if !up[s.id] {
				return false // it is about to end, or the container to begin
			}
			delete(up, s.id)
		}
		for id, still := range up {
			if still || len(groupsOf(t, id)) > 0 {
				return false
			}
		}
		return true
	}
	testenv.Eventually(t, "ps is right: "+what, truth)
	if t.Failed() {
		t.Fatal(said)
	}
	require.GreaterOrEqual(t, l.counted(t), l.count, what)
	for line := range strings.Lines(said) {
		id := strings.Fields(line)[0]
		if out, code := l.run(t, "diff", id); code != 0 { // run --rm removes it just then
			require.Contains(t, out, "No such container: "+id)
			require.NotContains(t, l.ok(t, "ps", "-a", "-q", "--no-trunc"), id)
		}
	}
}

// counted is the number that lies in the upper of "old", which is never half a one.
func (l *lives) counted(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(l.root, "containers/*/upper/n"))
	require.NoError(t, err)
	if len(files) == 0 {
		return 0
	}
	text, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(text), "\n"), "%q", text)
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	return n
}

type supervising struct {
	pid int
	id  string
}

// supervisors are those of the containers of this store.
func (l *lives) supervisors(t *testing.T) (list []supervising) {
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, name := range dirs {
		raw, err := os.ReadFile(name)
		args := strings.Split(string(raw), "\x00")
		if err != nil || len(args) < 3 || args[0] != "varve" || args[1] != "supervise" {
			continue
		}
		env, err := os.ReadFile(filepath.Join(filepath.Dir(name), "environ"))
		if err != nil || !strings.Contains(string(env), "VARVE_ROOT="+l.root+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		require.NoError(t, err)
		list = append(list, supervising{pid, args[2]})
	}
	return list
}

// firstChild is the oldest child of a process that is not a watch; 0 is none.
func firstChild(t *testing.T, parent int) int {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	require.NoError(t, err)
	for _, list := range lists {
		raw, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, child := range strings.Fields(string(raw)) {
			args, err := os.ReadFile("/proc/" + child + "/cmdline")
			if pid, numErr := strconv.Atoi(child); err == nil && numErr == nil && string(args) != "varve-watch\x00" {
				return pid
			}
		}
	}
	return 0
}

// groupsOf are the control groups of a container.
func groupsOf(t *testing.T, id string) []string {
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup/varve-" + id, "/sys/fs/cgroup/*/varve-" + id, "/sys/fs/cgroup/*/*/varve-" + id} {
		list, err := filepath.Glob(pattern)
		require.NoError(t, err)
		all = append(all, list...)
	}
	return all
}
