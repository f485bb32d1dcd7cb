package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// printStats is `varve mount --stats`.
func printStats(cmd *cobra.Command, args []string, format string) error {
	if len(args) != 1 {
		return usage(cmd, fmt.Errorf("--stats takes one mount point or socket, not %d", len(args)))
	}
	out := cmd.OutOrStdout()
	if format == "json" { // as the server wrote it, whatever version it is of
		raw, err := engine.ReadStatsJSON(args[0])
		if err == nil {
			_, err = out.Write(raw)
		}
		return err
	}
	stats, err := engine.ReadStats(args[0])
	if err != nil {
		return err
	}
	if format == "" {
		return writeStats(out, &stats)
	}
	t, err := parseTemplate(unescape(format))
	if err != nil {
		return err
	}
	if err := t.Execute(out, stats); err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	_, err = fmt.Fprintln(out)
	return err
}

// writeStats writes the figures for people, the operation that took most time first.
func writeStats(w io.Writer, s *engine.MountStats) error {
	access, source := "read-write", "merged as needed"
	if s.ReadOnly {
		access = "read-only"
	}
	if s.Indexed {
		source = "from an index"
	}
	up := units.HumanDuration(time.Duration(s.Uptime * float64(time.Second)))
	table := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	fmt.Fprintf(table, "%s: %s, io=%s, transport=%s, layers: %d, %s; served by process %d for %s\n\n", s.MountPoint, access, s.IO, s.Transport, s.Layers, source, s.PID, up)
	fmt.Fprintln(table, "OPERATION\tCOUNT\tERRORS\tMEAN\tP50\tP90\tP99\tMAX")
	for _, name := range busiest(s) {
		o := s.Operations[name]
		fmt.Fprintf(table, "%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", name, o.Count, o.Errors,
			took(o.Total/o.Count), took(o.P50), took(o.P90), took(o.P99), took(o.Max))
	}
	ups, c := s.CopyUps, s.Caches
	fmt.Fprintf(table, "\ndata\tread %s, written %s, copied inside %s\n", amount(s.Bytes.Read), amount(s.Bytes.Written), amount(s.Bytes.Copied))
	fmt.Fprintf(table, "copy-ups\t%d, of %s: %d shared with the layer, %d copied by the kernel, %d read and written\n",
		ups.Count, amount(ups.Bytes), ups.Reflink, ups.CopyFileRange, ups.ReadWrite)
	fmt.Fprintf(table, "kept\t%d descriptors of at most %d, %d files of layers, %d records, %d of them directories of the upper\n",
		c.Descriptors, c.DescriptorsLimit, c.LowerFiles, c.Records, c.UpperDirectories)
	fmt.Fprintf(table, "memory\t%s in all, %s of Go, %s on its heap; %d goroutines\n",
		amount(s.Memory.Resident), amount(s.Memory.Go), amount(s.Memory.Heap), s.Goroutines)
	return table.Flush()
}

// busiest lists the operations that came, those that took most time first.
func busiest(s *engine.MountStats) []string {
	names := slices.Sorted(maps.Keys(s.Operations))
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Compare(s.Operations[b].Total, s.Operations[a].Total)
	})
	return names
}

// took is a time to three digits.
func took(ns uint64) string {
	d := time.Duration(ns)
	for unit := time.Duration(1); unit < time.Hour; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit).String()
		}
	}
	return d.String()
}

func amount(bytes uint64) string { return size(int64(bytes)) }
