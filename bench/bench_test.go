package bench_test

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/bench"
	"github.com/varvefs/varve/internal/testenv"
)

func TestMain(m *testing.M) {
	bench.Main()
	code := m.Run()
	testenv.RemoveVarve()
	os.Exit(code)
}

// newBase makes an empty directory, in memory where there is a place for that: what
// is measured is the file system, not the disk.
func newBase(t testing.TB) string {
	t.Helper()
	place := "/dev/shm"
	if info, err := os.Stat(place); err != nil || !info.IsDir() {
		place = ""
	}
	base, err := os.MkdirTemp(place, "varve-bench-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(base)) })
	testenv.CheckLeaks(t, base)
	return base
}

// TestCompare is `make bench-compare`: it prints the table. Without ROUNDS it is one
// short round on a small tree, which shows that each operation does what it says
// and that each of ours shows what a plain directory shows.
func TestCompare(t *testing.T) {
	testenv.FUSE(t)
	o := bench.Options{Base: newBase(t), Varve: testenv.Varve(t), Fill: bench.SmallTree(20), Small: true}
	if text := os.Getenv("ROUNDS"); text != "" {
		n, err := strconv.Atoi(text)
		require.NoError(t, err, "ROUNDS")
		o.Rounds, o.Small, o.Log = n, false, os.Stderr
		o.Fill = bench.FromTar(testenv.Debian(t, "python3-minimal", "gcc", "libc6-dev", "git", "make"))
		o.Rows, o.Peers = pattern(t, "ROWS"), pattern(t, "PEERS")
	}
	report, err := bench.Compare(o)
	require.NoError(t, err)
	require.NoError(t, report.Write(os.Stdout))
	if o.Small {
		checkWhole(t, report)
	}
	if path := os.Getenv("LEDGER"); path != "" {
		appendTo(t, path, report.Ledger(time.Now(), os.Getenv("COMMIT")))
	}
}

func pattern(t *testing.T, variable string) *regexp.Regexp {
	text := os.Getenv(variable)
	if text == "" {
		return nil
	}
	p, err := regexp.Compile(text)
	require.NoError(t, err, variable)
	return p
}

func appendTo(t *testing.T, path, text string) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(text)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// checkWhole sees that every row has a figure, beside a plain directory at least.
func checkWhole(t *testing.T, r *bench.Report) {
	rows := map[string]bool{}
	for _, l := range r.Lines {
		if l.Of != "varve" {
			continue
		}
		rows[l.Row] = true
		ratio, ok := l.To("plain")
		require.True(t, ok, l.Row)
		require.Positive(t, ratio.Median, l.Row)
		require.Positive(t, l.Nanoseconds, l.Row)
	}
	require.ElementsMatch(t, bench.RowNames(), keys(rows))
	require.GreaterOrEqual(t, len(r.Memory), 2)
	for _, m := range r.Memory {
		require.Positive(t, m.RSS, m.Peer)
	}
}

func keys(set map[string]bool) (list []string) {
	for k := range set {
		list = append(list, k)
	}
	return list
}

func TestReport(t *testing.T) {
	var out strings.Builder
	r := bench.Report{Rounds: 1, Lines: []bench.Line{{Group: "names", Row: "lstat", Of: "varve", Nanoseconds: 500,
		Ratios: []bench.Ratio{{Peer: "overlayfs", Low: 0.4, Median: 0.5, Top: 0.6}},
		Bars:   []bench.Bar{{Of: "varve", Peer: "overlayfs", Most: 0.45}, {Of: "varve", Peer: "fuse-overlayfs", Most: 1}}}}}
	require.NoError(t, r.Write(&out))
	require.Contains(t, out.String(), "0.50 (0.40–0.60)")
	require.Contains(t, out.String(), "0.45 k NO, 1 f ?")
	require.Equal(t, "| 2026-01-02 | abc | varve: lstat | dev | k; f | 0.50 (–) |\n",
		r.Ledger(time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), "abc"))
}
