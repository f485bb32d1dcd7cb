package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/varvefs/varve/internal/engine"
)

// statsRow is one line of `varve stats`.
type statsRow struct {
	BlockIO   string `title:"BLOCK I/O"`
	CPUPerc   string `title:"CPU %"`
	Container string `title:"CONTAINER"`
	ID        string `title:"CONTAINER ID"`
	MemPerc   string `title:"MEM %"`
	MemUsage  string `title:"MEM USAGE / LIMIT"`
	Name      string `title:"NAME"`
	NetIO     string `title:"NET I/O"`
	PIDs      string `title:"PIDS"`
}

// statsWish is what the flags of stats say.
type statsWish struct {
	all, noStream, noTrunc bool
	format                 string
	warned                 bool // that figures are estimated
}

// stats is `varve stats`.
func (c *cli) stats() *cobra.Command {
	var w statsWish
	cmd := &cobra.Command{
		Use:   "stats [OPTIONS] [CONTAINER...]",
		Short: "Show what containers use, second by second",
		Long: "Show what containers use, second by second: those that are named, or all that run.\n\n" +
			"'varve mount --stats' shows what a mounted view has done.",
		Example: "  varve stats\n  varve stats --no-stream --format '{{.Name}} {{.MemUsage}}' web",
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := c.open()
			if err != nil {
				return err
			}
			return w.show(cmd.OutOrStdout(), e, args)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&w.all, "all", "a", false, "also those that do not run")
	f.BoolVar(&w.noStream, "no-stream", false, "once, and no more")
	f.BoolVar(&w.noTrunc, "no-trunc", false, "cut nothing short")
	f.StringVar(&w.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	return cmd
}

// statsPeriod is the time between two looks, of which the use of the processors is made.
const statsPeriod = time.Second

func (w *statsWish) show(out io.Writer, e *engine.Engine, names []string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(stop)
	before, err := w.look(e, names)
	if err != nil {
		return err
	}
	for {
		select {
		case <-stop:
			return nil
		case <-time.After(statsPeriod):
		}
		now, err := w.look(e, names)
		if err != nil {
			return err
		}
		if err := w.print(out, now, before); err != nil || w.noStream {
			return err
		}
		before = now
	}
}

// look reads the figures, and says once which of them are estimated.
func (w *statsWish) look(e *engine.Engine, names []string) ([]engine.ContainerUsage, error) {
	list, err := e.Usages(names, w.all)
	missing := map[string]bool{}
	for _, u := range list {
		for _, name := range u.Estimated {
			missing[name] = true
		}
	}
	if len(missing) > 0 && !w.warned {
		w.warned = true
		fmt.Fprintf(os.Stderr, "varve: warning: no control group counts %s here: these figures are sums of what the processes tell\n",
			strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
	}
	return list, err
}

// print writes the table, over the last one on a terminal.
func (w *statsWish) print(out io.Writer, now, before []engine.ContainerUsage) error {
	l := list[statsRow]{
		table:  "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
		format: w.format,
	}
	var text bytes.Buffer
	if err := l.print(&text, w.rows(now, before)); err != nil {
		return err
	}
	shown := text.String()
	if f, is := out.(*os.File); is && !w.noStream && term.IsTerminal(int(f.Fd())) {
		shown = "\x1b[H" + strings.ReplaceAll(shown, "\n", "\x1b[K\n") + "\x1b[J"
	}
	_, err := io.WriteString(out, shown)
	return err
}

func (w *statsWish) rows(now, before []engine.ContainerUsage) []statsRow {
	last := map[string]engine.ContainerUsage{}
	for _, u := range before {
		last[u.ID] = u
	}
	var rows []statsRow
	for _, u := range now {
		cpu := 0.0
		if b := last[u.ID]; b.Running && u.CPU > b.CPU && u.At.After(b.At) {
			cpu = 100 * float64(u.CPU-b.CPU) / float64(u.At.Sub(b.At))
		}
		rows = append(rows, statsRow{
			Container: u.Asked, ID: shortID(u.ID, w.noTrunc), Name: u.Name,
			CPUPerc:  fmt.Sprintf("%.2f%%", cpu),
			MemUsage: units.BytesSize(float64(u.Memory)) + " / " + units.BytesSize(float64(u.MemoryLimit)),
			MemPerc:  fmt.Sprintf("%.2f%%", percent(u.Memory, u.MemoryLimit)),
			NetIO:    amount(u.Received) + " / " + amount(u.Sent),
			BlockIO:  amount(u.Read) + " / " + amount(u.Written),
			PIDs:     fmt.Sprint(u.Pids),
		})
	}
	return rows
}
