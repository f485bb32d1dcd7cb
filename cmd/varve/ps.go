package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// psRow is one line of `varve ps`.
type psRow struct {
	ID         string `title:"CONTAINER ID"`
	Image      string `title:"IMAGE"`
	Command    string `title:"COMMAND"`
	RunningFor string `title:"CREATED"`
	CreatedAt  string `title:"CREATED AT"`
	Status     string `title:"STATUS"`
	State      string `title:"STATE"`
	Ports      string `title:"PORTS"`
	Names      string `title:"NAMES"`
	Size       string `title:"SIZE"`
}

// psWish is what the flags of ps say.
type psWish struct {
	all, quiet, noTrunc, latest, size bool
	last                              int
	filters                           []string
	format                            string
}

// ps is `varve ps`.
func (c *cli) ps() *cobra.Command {
	var w psWish
	cmd := &cobra.Command{
		Use:     "ps [OPTIONS]",
		Short:   "List containers",
		Example: "  varve ps -a -f status=exited -f label=job\n  varve ps -q -l",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			show := func(e *engine.Engine) error { return w.show(cmd, e) }
			if w.size {
				return c.inside(show)
			}
			e, err := c.open()
			if err != nil {
				return err
			}
			return show(e)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&w.all, "all", "a", false, "also those that do not run")
	f.BoolVarP(&w.quiet, "quiet", "q", false, "only the IDs")
	f.StringArrayVarP(&w.filters, "filter", "f", nil, "only those with id, name, label, status, exited, ancestor or health = VALUE")
	f.IntVarP(&w.last, "last", "n", -1, "so many of those that were created last, running or not")
	f.BoolVarP(&w.latest, "latest", "l", false, "the one that was created last, running or not")
	f.BoolVarP(&w.size, "size", "s", false, "with the sizes of their files")
	f.BoolVar(&w.noTrunc, "no-trunc", false, "cut nothing short")
	f.StringVar(&w.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	return cmd
}

func (w psWish) show(cmd *cobra.Command, e *engine.Engine) error {
	list, err := e.Containers(w.filters...)
	if err != nil {
		return err
	}
	if w.latest {
		w.last = 1
	}
	if w.last >= 0 {
		list = list[:min(w.last, len(list))]
	}
	// Who asks for a state, or for the last, asks for those that do not run, too.
	all := w.all || w.last >= 0 || slices.ContainsFunc(w.filters, func(f string) bool {
		return strings.HasPrefix(f, "status=") || strings.HasPrefix(f, "exited=")
	})
	rows := psRows(list, all, w.noTrunc)
	if w.size {
		if rows, err = withSizes(e, rows, list); err != nil {
			return err
		}
	}
	format := w.format
	if w.quiet && format == "" {
		format = "{{.ID}}"
	}
	l := psList(format)
	if w.size {
		l.table += "\t{{.Size}}"
	}
	return l.print(cmd.OutOrStdout(), rows)
}

// withSizes fills in what the containers of the rows have on the disk.
func withSizes(e *engine.Engine, rows []psRow, list []engine.ContainerInfo) ([]psRow, error) {
	byName := map[string]engine.ContainerInfo{}
	for _, c := range list {
		byName[c.Name] = c
	}
	for i := range rows {
		own, all, err := e.SizeOf(byName[rows[i].Names])
		if err != nil {
			return nil, err
		}
		rows[i].Size = fmt.Sprintf("%s (virtual %s)", size(own), size(all))
	}
	return rows, nil
}

func psList(format string) list[psRow] {
	return list[psRow]{
		table:  "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
		format: format,
	}
}

func psRows(list []engine.ContainerInfo, all, noTrunc bool) []psRow {
	var rows []psRow
	for _, c := range list {
		if !all && !c.State.Up() {
			continue
		}
		command := strings.Join(c.Command, " ")
		if !noTrunc {
			command = ellipsis(command, 20)
		}
		rows = append(rows, psRow{
			ID: shortID(c.ID, noTrunc), Image: c.ImageName, Command: strconv.Quote(command),
			RunningFor: ago(c.Created), CreatedAt: stamp(c.Created),
			Status: status(c.State), State: c.State.Word(), Names: c.Name,
		})
	}
	return rows
}

// status is the state of a container in docker's words.
func status(s engine.State) string {
	switch s.Status {
	case engine.Running:
		up := "Up " + units.HumanDuration(time.Since(s.Started))
		switch {
		case s.Paused():
			up += " (Paused)"
		case s.Health == "starting":
			up += " (health: starting)"
		case s.Health != "":
			up += " (" + s.Health + ")"
		}
		return up
	case engine.Restarting:
		return fmt.Sprintf("Restarting (%d) %s", s.ExitCode, ago(s.Finished))
	case engine.Exited:
		if s.Finished.IsZero() { // its supervisor was killed: nobody saw when
			return fmt.Sprintf("Exited (%d)", s.ExitCode)
		}
		return fmt.Sprintf("Exited (%d) %s", s.ExitCode, ago(s.Finished))
	}
	return "Created"
}
