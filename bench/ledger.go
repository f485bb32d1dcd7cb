package bench

import (
	"fmt"
	"strings"
	"time"
)

// Ledger returns the report as rows of docs/performance.md: one for each group and
// each of ours, of that day and commit.
func (r *Report) Ledger(day time.Time, commit string) string {
	var rows strings.Builder
	for first := 0; first < len(r.Lines); {
		group := r.Lines[first].Group
		var all []Line
		for ; first < len(r.Lines) && r.Lines[first].Group == group; first++ {
			all = append(all, r.Lines[first])
		}
		for _, p := range peers("") {
			var lines []Line
			for _, l := range all {
				if l.Of == p.name {
					lines = append(lines, l)
				}
			}
			if len(lines) > 0 {
				row(&rows, day, commit, p.name, lines)
			}
		}
	}
	if len(r.Memory) > 0 {
		var list []string
		for _, m := range r.Memory {
			list = append(list, fmt.Sprintf("%s %.1f (PSS %.1f)", m.Peer, mib(m.RSS), mib(m.PSS)))
		}
		fmt.Fprintf(&rows, "| %s | %s | %s, RSS after a walk of 200,000 files | dev | MiB | %s |\n",
			day.Format(time.DateOnly), commit, memoryGroup, strings.Join(list, "; "))
	}
	return rows.String()
}

// row writes the lines of one group and one of ours.
func row(b *strings.Builder, day time.Time, commit, of string, lines []Line) {
	var what []string
	for _, l := range lines {
		what = append(what, l.Row)
	}
	transport := "dev"
	if of == varveRing {
		transport = "uring"
	}
	fmt.Fprintf(b, "| %s | %s | %s: %s | %s | k; f | %s (%s) |\n", day.Format(time.DateOnly), commit,
		strings.TrimPrefix(of, "varve "), strings.Join(what, "; "), transport, to(overlayfs, lines), to(fuseOverlayfs, lines))
}

// to lists the ratios to a peer, "–" where it was not here.
func to(peer string, lines []Line) string {
	var list []string
	for _, l := range lines {
		text := "–"
		if r, ok := l.To(peer); ok {
			text = fmt.Sprintf("%.2f", r.Median)
		}
		list = append(list, text)
	}
	return strings.Join(list, "; ")
}
