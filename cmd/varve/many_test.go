package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// fromEnv is a number that a target of the Makefile sets, or the one for every day.
func fromEnv(t *testing.T, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

// smallTar writes a tar with one file of its own and some that others share.
func smallTar(t *testing.T, content string, size int) string {
	t.Helper()
	dir := testenv.Dir(t)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "tree/etc"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tree/etc/content"), []byte(content), 0o644))
	data := bytes.Repeat([]byte(content+"."), size/(len(content)+1))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tree/data"), data, 0o644))
	name := filepath.Join(dir, content+".tar")
	out, err := exec.Command("tar", "-cf", name, "--owner=0", "--group=0", "-C", filepath.Join(dir, "tree"), ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return name
}

// A shop is a store as root, with an image base:1, a stopped container and an
// archive for load.
type shop struct {
	home
	tar, archive string
}

func newShop(t *testing.T, root string) *shop {
	t.Helper()
	testenv.Root(t)
	s := &shop{home: home{bin: testenv.Varve(t), root: root}}
	s.tar = smallTar(t, "base", 20_000)
	s.ok(t, "import", testenv.Busybox(t).Tar, "base:1")
	s.ok(t, "run", "--name", "stopped", "base:1", "sh", "-c", "echo changed > /changed")
	other := home{bin: s.bin, root: filepath.Join(testenv.Dir(t), "other")}
	other.ok(t, "import", smallTar(t, "loaded", 20_000), "loaded:1")
	s.archive = filepath.Join(testenv.Dir(t), "loaded.tar")
	other.ok(t, "save", "-o", s.archive, "loaded:1")
	return s
}

// An answer is what one process of a crowd said.
type answer struct {
	args []string
	out  string
	code int
	took time.Duration
	rss  int64 // KiB
}

// one runs a verb and takes down how it went.
func (s *shop) one(ctx context.Context, args ...string) answer {
	begin := time.Now()
	cmd := s.command(ctx, args...)
	out, err := cmd.CombinedOutput()
	a := answer{args: args, out: string(out), took: time.Since(begin)}
	if cmd.ProcessState == nil {
		a.code, a.out = -1, fmt.Sprint(err)
		return a
	}
	a.code = cmd.ProcessState.ExitCode()
	if use, is := cmd.ProcessState.SysUsage().(*syscall.Rusage); is {
		a.rss = use.Maxrss
	}
	return a
}

// jobs are the verbs of a crowd: each one is several commands in a row, of which a
// later one relies on what an earlier one acknowledged.
func (s *shop) jobs(dir string) []func(i int) [][]string {
	n := func(what string, i int) string { return fmt.Sprintf("%s-%d:1", what, i) }
	return []func(i int) [][]string{
		func(i int) [][]string { return [][]string{{"import", s.tar, n("imported", i)}} },
		func(int) [][]string { return [][]string{{"load", "-q", "-i", s.archive}} },
		func(i int) [][]string { return [][]string{{"tag", "base:1", n("tagged", i)}} },
		func(i int) [][]string {
			return [][]string{{"tag", "base:1", n("gone", i)}, {"rmi", n("gone", i)}}
		},
		func(i int) [][]string { return [][]string{{"commit", "stopped", n("committed", i)}} },
		func(i int) [][]string {
			name := fmt.Sprintf("box-%d", i)
			return [][]string{{"run", "--name", name, "base:1", "true"}, {"rm", name}}
		},
		func(int) [][]string { return [][]string{{"images"}, {"history", "base:1"}} },
		func(int) [][]string { return [][]string{{"inspect", "base:1"}, {"ps", "-a"}} },
		func(i int) [][]string {
			return [][]string{{"save", "-o", filepath.Join(dir, strconv.Itoa(i)), "base:1"}}
		},
		// The loaded image comes and goes: a reader may be told so, and no more.
		func(int) [][]string { return [][]string{{"rmi", "loaded:1"}} },
		func(i int) [][]string {
			return [][]string{{"save", "-o", filepath.Join(dir, "l"+strconv.Itoa(i)), "loaded:1"}}
		},
	}
}

// TestCrowd has VARVE_MANY processes (44) work on one store at once.
func TestCrowd(t *testing.T) {
	testenv.FUSE(t)
	crowd := fromEnv(t, "VARVE_MANY", 44)
	s := newShop(t, filepath.Join(testenv.Dir(t), "store"))
	dir := testenv.Dir(t)
	jobs := s.jobs(dir)
	answers := make([][]answer, crowd)
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range crowd {
		wg.Go(func() {
			for _, args := range jobs[i%len(jobs)](i) {
				a := s.one(t.Context(), args...)
				answers[i] = append(answers[i], a)
				if a.code != 0 {
					return
				}
			}
		})
	}
	wg.Wait()
	var longest answer
	refused := 0
	for _, list := range answers {
		for _, a := range list {
			checkAnswer(t, a)
			if strings.Contains(a.out, "the store is busy") {
				refused++
			}
			if a.took > longest.took {
				longest = a
			}
		}
	}
	t.Logf("%d at once: %s, the longest %v %s", crowd, time.Since(begin), longest.args, longest.took)
	require.Less(t, refused, crowd/2, "most are served, also on a slow machine")
	s.checkCrowd(t, answers)
}

// checkAnswer: it succeeded, or it was about the image that comes and goes.
func checkAnswer(t *testing.T, a answer) {
	t.Helper()
	require.Less(t, a.rss, int64(120<<10), "varve %v: KiB of memory", a.args)
	if a.code != 0 && strings.HasPrefix(a.args[len(a.args)-1], "loaded:1") {
		require.Equal(t, 1, a.code, "varve %v: %s", a.args, a.out)
		require.Contains(t, a.out, "No such image", "varve %v", a.args)
		return
	}
	if a.code != 0 && strings.Contains(a.out, "the store is busy") { // a slow machine
		require.Regexp(t, `held by process \d+ \(.+\), waited 30s`, a.out)
		return
	}
	require.Zero(t, a.code, "varve %v: %s", a.args, a.out)
}

// checkCrowd: what was acknowledged is there, what was removed is not, and every
// image that is listed can be saved.
func (s *shop) checkCrowd(t *testing.T, answers [][]answer) {
	t.Helper()
	names := strings.Fields(s.names(t))
	want, may := map[string]bool{"base:1": true}, map[string]bool{"loaded:1": true}
	for _, list := range answers {
		last := list[len(list)-1]
		name := last.args[len(last.args)-1]
		may[name] = last.code != 0 // it may have been done, or its rmi not
		if verb := last.args[0]; last.code == 0 && (verb == "import" || verb == "tag" && !strings.HasPrefix(name, "gone") || verb == "commit") {
			want[name] = true
		}
	}
	for _, name := range names {
		require.True(t, want[name] || may[name] || name == "loaded:1", name)
		delete(want, name)
	}
	require.Empty(t, want, "lost updates")
	require.Equal(t, "stopped\n", s.ok(t, "ps", "-a", "--format", "{{.Names}}"))
	s.ok(t, append([]string{"save", "-o", filepath.Join(testenv.Dir(t), "all")}, names...)...)
}

// names are those of all images, one a line, but for the image host and those that
// have none.
func (s *shop) names(t *testing.T) string {
	t.Helper()
	list := s.ok(t, "images", "--format", "{{.Repository}}:{{.Tag}}")
	return strings.NewReplacer("host:latest\n", "", "<none>:<none>\n", "").Replace(list)
}

// saved is the digest of what save gives of an image.
func (s *shop) saved(t *testing.T, name string) [sha256.Size]byte {
	t.Helper()
	file := filepath.Join(testenv.Dir(t), "saved")
	s.ok(t, "save", "-o", file, name)
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.Remove(file))
	return sha256.Sum256(data)
}

// runProgram runs a program that has to succeed and returns what it prints.
func runProgram(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}
