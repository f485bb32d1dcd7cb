package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// samples are the nanoseconds of one operation in each round, by row and peer.
type samples map[string]map[string][]float64

func (s samples) add(peer string, results map[string]result) {
	for row, r := range results {
		if s[row] == nil {
			s[row] = map[string][]float64{}
		}
		s[row][peer] = append(s[row][peer], float64(r.Took.Nanoseconds())/float64(max(1, r.Ops)))
	}
}

// Report is what a comparison found.
type Report struct {
	Rounds int
	Lines  []Line
	Memory []Memory
	Notes  []string // what was left out, and which peer showed something else
}

// Line is one row for one of ours.
type Line struct {
	Group, Row, Of string
	Nanoseconds    float64 // the median of one operation
	Ratios         []Ratio // to each other peer that was here
	Bars           []Bar   // that ask something of Of
}

// Ratio compares with another peer: the quartiles over the rounds of the ratios
// taken within each.
type Ratio struct {
	Peer             string
	Low, Median, Top float64
}

// note keeps the first note with a beginning.
func (r *Report) note(beginning string, err error) {
	if !slices.ContainsFunc(r.Notes, func(text string) bool { return strings.HasPrefix(text, beginning) }) {
		r.Notes = append(r.Notes, fmt.Sprint(beginning, ": ", err))
	}
}

// add appends the lines of a group.
func (r *Report) add(g group, s samples) {
	for _, row := range g.rows {
		for _, p := range peers("") {
			if times := s[row.Name][p.name]; p.ours() && len(times) > 0 {
				r.Lines = append(r.Lines, line(g.name, row, p.name, s[row.Name]))
			}
		}
	}
}

func line(group string, row Row, of string, times map[string][]float64) Line {
	_, middle, _ := quartiles(times[of])
	l := Line{Group: group, Row: row.Name, Of: of, Nanoseconds: middle}
	for _, peer := range []string{overlayfs, fuseOverlayfs, plain} {
		if len(times[peer]) == len(times[of]) {
			l.Ratios = append(l.Ratios, ratio(peer, times[of], times[peer]))
		}
	}
	for _, bar := range row.Bars {
		if bar.Of == of || bar.Of == varve && of == varveRing {
			l.Bars = append(l.Bars, bar)
		}
	}
	return l
}

// ratio pairs the times of the same rounds.
func ratio(peer string, ours, theirs []float64) Ratio {
	list := make([]float64, len(ours))
	for i := range ours {
		list[i] = ours[i] / max(1, theirs[i])
	}
	low, middle, top := quartiles(list)
	return Ratio{peer, low, middle, top}
}

// quartiles returns the values at a quarter, a half and three quarters of a list.
func quartiles(list []float64) (low, middle, top float64) {
	sorted := slices.Sorted(slices.Values(list))
	at := func(quarter int) float64 {
		place := float64(len(sorted)-1) * float64(quarter) / 4
		i := int(place)
		next := sorted[min(i+1, len(sorted)-1)]
		return sorted[i] + (next-sorted[i])*(place-float64(i))
	}
	return at(1), at(2), at(3)
}

// To returns the ratio to a peer; ok is false if it was not here.
func (l Line) To(peer string) (r Ratio, ok bool) {
	i := slices.IndexFunc(l.Ratios, func(r Ratio) bool { return r.Peer == peer })
	if i < 0 {
		return r, false
	}
	return l.Ratios[i], true
}

// asked says what the bars are and whether they are met.
func (l Line) asked() string {
	var list []string
	for _, bar := range l.Bars {
		text := fmt.Sprintf("%.4g %s", bar.Most, short[bar.Peer])
		switch r, ok := l.To(bar.Peer); {
		case !ok:
			text += " ?"
		case r.Median <= bar.Most:
			text += " yes"
		default:
			text += " NO"
		}
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

// short are the letters that stand for peers in the table.
var short = map[string]string{overlayfs: "k", fuseOverlayfs: "f", plain: "p"}

// Write prints the report as a table.
func (r *Report) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "medians and quartiles of %d rounds; k overlayfs, f fuse-overlayfs, p a plain directory\n", r.Rounds)
	fmt.Fprintln(t, "operation\twho\tns\t÷ k\t÷ f\t÷ p\tat most, met")
	for _, l := range r.Lines {
		fmt.Fprintf(t, "%s\t%s\t%.0f\t", l.Row, l.Of, l.Nanoseconds)
		for _, peer := range []string{overlayfs, fuseOverlayfs, plain} {
			if ratio, ok := l.To(peer); ok {
				fmt.Fprintf(t, "%.2f (%.2f–%.2f)", ratio.Median, ratio.Low, ratio.Top)
			}
			fmt.Fprint(t, "\t")
		}
		fmt.Fprintln(t, l.asked())
	}
	for _, m := range r.Memory {
		fmt.Fprintln(t, m.row())
	}
	for _, note := range r.Notes {
		fmt.Fprintf(t, "note: %s\n", note)
	}
	return t.Flush() // tells the first error of all of the above
}

func (m Memory) row() string {
	asked := ""
	if m.Peer == varveIndex {
		if asked = "60 MiB NO"; m.RSS < memoryLimit {
			asked = "60 MiB yes"
		}
	}
	return fmt.Sprintf("%s after the walk\t%s\tRSS %.1f MiB, PSS %.1f MiB\t\t\t\t%s",
		memoryGroup, m.Peer, mib(m.RSS), mib(m.PSS), asked)
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
