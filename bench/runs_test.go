package bench_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/bench"
	"github.com/varvefs/varve/internal/testenv"
)

// TestCompareRuns is `make bench-run`: it prints the table. Without ROUNDS it is one
// round with a small image, which shows that every job is done.
func TestCompareRuns(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	base := t.TempDir()
	testenv.CheckLeaks(t, base)
	o := bench.RunOptions{Base: base, Varve: testenv.Varve(t), Many: 3}
	if text := os.Getenv("ROUNDS"); text != "" {
		n, err := strconv.Atoi(text)
		require.NoError(t, err, "ROUNDS")
		o.Rounds, o.Many, o.Log = n, 50, os.Stderr
		o.Tar, o.Python = testenv.Debian(t, "python3-minimal", "gcc", "libc6-dev", "git", "make"), true
	} else {
		o.Tar, o.Each = testenv.Busybox(t).Tar, 2
	}
	u := testenv.Ranged(t)
	o.UserVarve, o.UserDir, o.Empty = u.Give(t, o.Varve), u.Dir(t), emptyProgram(t)
	o.User = func(name string, args ...string) *exec.Cmd { return u.Command(context.Background(), name, args...) }
	report, err := bench.CompareRuns(o)
	require.NoError(t, err)
	require.NoError(t, report.Write(os.Stdout))
	require.GreaterOrEqual(t, len(report.Lines), 5)
	for _, l := range report.Lines {
		require.Positive(t, l.Value, l.Job)
	}
	if path := os.Getenv("LEDGER"); path != "" {
		appendTo(t, path, report.Ledger(time.Now(), os.Getenv("COMMIT")))
	}
}

// emptyProgram builds one of Go.
func emptyProgram(t *testing.T) string {
	t.Helper()
	source, program := filepath.Join(t.TempDir(), "main.go"), filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600))
	cmd := exec.Command("go", "build", "-o", program, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

func TestRunReport(t *testing.T) {
	var out strings.Builder
	r := bench.RunReport{Rounds: 1, Each: 10, Lines: []bench.RunLine{
		{Job: "run", Unit: "ms", Value: 36, Least: 30, Bar: 35}, {Job: "many", Unit: "ms", Value: 2, Least: 2, Peer: "podman", Theirs: 10, Bar: 3},
	}, Paces: []bench.RunPace{{Program: "bubblewrap true", Here: 9, There: 4}}}
	require.NoError(t, r.Write(&out))
	require.Regexp(t, `run +36.0 ms +30.0 .* NO\n`, out.String())
	require.Regexp(t, `many +2.0 ms +2.0 +podman +10.0 +3.0 +yes\n`, out.String())
	require.Contains(t, out.String(), "pace: bubblewrap true took 9.0 ms here and 4 where the bars were set: 2.2\n")
	require.Contains(t, r.Ledger(time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), "abc"), "many: 2 ms (least 2), podman 10")
}
