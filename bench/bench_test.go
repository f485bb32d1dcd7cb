package bench_test

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/bench"
	"github.com/varvefs/varve/internal/testenv"
)

func TestMain(m *testing.M) {
	code := m.Run()
	testenv.RemoveVarve()
	os.Exit(code)
}

// newStack makes the layers, in memory where there is a place for that: what is
// measured is the file system, not the disk.
func newStack(t testing.TB) *bench.Stack {
	t.Helper()
	place := "/dev/shm"
	if info, err := os.Stat(place); err != nil || !info.IsDir() {
		place = ""
	}
	base, err := os.MkdirTemp(place, "varve-bench-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(base)) })
	testenv.CheckLeaks(t, base)
	s, err := bench.NewStack(base)
	require.NoError(t, err)
	return s
}

// TestTable runs every workload and compares the peers: as many rounds as
// ROUNDS says, with all operations; without ROUNDS one short round of varve
// alone, which shows that the workloads do what they say.
func TestTable(t *testing.T) {
	testenv.FUSE(t)
	s := newStack(t)
	peers, rounds, ops := []bench.Peer{bench.Varve(testenv.Varve(t))}, 1, 50
	if text := os.Getenv("ROUNDS"); text != "" {
		n, err := strconv.Atoi(text)
		require.NoError(t, err, "ROUNDS")
		peers, rounds, ops = append(bench.Peers(), peers...), n, 0
	}
	report, err := bench.Compare(s, peers, rounds, ops)
	require.NoError(t, err)
	require.NoError(t, report.Write(os.Stdout))
	require.Len(t, report.Rows, len(bench.Workloads()))
}

func TestReport(t *testing.T) {
	var out strings.Builder
	r := bench.Report{Peers: []string{"a", "b"}, Rows: []bench.Row{{
		Workload: "lstat", PerOp: []time.Duration{1000, 500}, Ratio: []float64{1, 0.5}}}}
	require.NoError(t, r.Write(&out))
	require.Equal(t, []string{"median", "ns", "an", "operation", "a", "b", "÷", "a", "lstat", "1000", "500", "0.50"},
		strings.Fields(out.String()))
}

func TestStackTellsAChangedLower(t *testing.T) {
	s := newStack(t)
	require.NoError(t, s.Check())
	require.NoError(t, os.WriteFile(s.Lowers[3]+"/d00/f003", []byte("x"), 0o644))
	require.Error(t, s.Check())
}

// BenchmarkView times each workload on each peer. Each batch has a mount of its
// own, whose cost is not counted.
func BenchmarkView(b *testing.B) {
	testenv.FUSE(b)
	s := newStack(b)
	for _, w := range bench.Workloads() {
		for _, p := range append(bench.Peers(), bench.Varve(testenv.Varve(b))) {
			b.Run(strings.ReplaceAll(w.Name, " ", "_")+"/"+p.Name, func(b *testing.B) {
				var total time.Duration
				for left := b.N; left > 0; left -= w.Ops {
					took, err := bench.Visit(s, p, w, min(left, w.Ops))
					require.NoError(b, err)
					total += took
				}
				b.ReportMetric(float64(total.Nanoseconds())/float64(b.N), "ns/op")
			})
		}
	}
}
