package bench

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Report is the medians of several rounds.
type Report struct {
	Peers []string // the first is what the others are compared with
	Rows  []Row
}

// Row is one workload: for each peer the median time of one operation, and the
// median over the rounds of its ratio to the first peer.
type Row struct {
	Workload string
	PerOp    []time.Duration
	Ratio    []float64
}

// Compare runs each workload rounds times on each peer, interleaved, with ops
// operations a visit (0: as many as the workload says), and checks the lower
// layers at the end.
func Compare(s *Stack, peers []Peer, rounds, ops int) (*Report, error) {
	report := &Report{}
	for _, p := range peers {
		report.Peers = append(report.Peers, p.Name)
	}
	for _, w := range Workloads() {
		n := w.Ops
		if ops > 0 {
			n = min(n, ops)
		}
		row, err := compare(s, peers, w, rounds, n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Name, err)
		}
		report.Rows = append(report.Rows, row)
	}
	return report, s.Check()
}

func compare(s *Stack, peers []Peer, w Workload, rounds, n int) (Row, error) {
	times := make([][]time.Duration, len(peers))
	ratios := make([][]float64, len(peers))
	for range rounds {
		for i, p := range peers {
			took, err := Visit(s, p, w, n)
			if err != nil {
				return Row{}, fmt.Errorf("%s: %w", p.Name, err)
			}
			times[i] = append(times[i], took/time.Duration(n))
			ratios[i] = append(ratios[i], float64(took)/float64(max(1, times[0][len(times[0])-1]*time.Duration(n))))
		}
	}
	row := Row{Workload: w.Name}
	for i := range peers {
		row.PerOp = append(row.PerOp, median(times[i]))
		row.Ratio = append(row.Ratio, median(ratios[i]))
	}
	return row, nil
}

// Visit mounts the stack freshly, does n operations and unmounts.
func Visit(s *Stack, p Peer, w Workload, n int) (took time.Duration, err error) {
	unmount, err := p.Mount(s)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	return w.Run(s.Mnt, n)
}

// median returns the middle of list, which it sorts; list must not be empty.
func median[T int64 | float64 | time.Duration](list []T) T {
	slices.Sort(list)
	return list[len(list)/2]
}

// Write prints the report as a table.
func (r *Report) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "median ns an operation\t")
	for i, name := range r.Peers {
		if fmt.Fprintf(t, "%s\t", name); i > 0 {
			fmt.Fprintf(t, "÷ %s\t", r.Peers[0])
		}
	}
	fmt.Fprintln(t)
	for _, row := range r.Rows {
		fmt.Fprintf(t, "%s\t", row.Workload)
		for i, d := range row.PerOp {
			if fmt.Fprintf(t, "%d\t", d.Nanoseconds()); i > 0 {
				fmt.Fprintf(t, "%.2f\t", row.Ratio[i])
			}
		}
		fmt.Fprintln(t)
	}
	return t.Flush() // tells the first error of all of the above
}
