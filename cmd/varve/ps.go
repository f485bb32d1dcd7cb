package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/engine"
)

// psRow is one line of `varve ps`. Its fields are in the order of docker's JSON.
type psRow struct {
	Command      string `title:"COMMAND"`
	CreatedAt    string `title:"CREATED AT"`
	ID           string `title:"CONTAINER ID"`
	Image        string `title:"IMAGE"`
	Labels       string `title:"LABELS"`
	LocalVolumes string `title:"LOCAL VOLUMES"`
	Mounts       string `title:"MOUNTS"`
	Names        string `title:"NAMES"`
	Networks     string `title:"NETWORKS"`
	Ports        string `title:"PORTS"`
	RunningFor   string `title:"CREATED"`
	Size         string `title:"SIZE"`
	State        string `title:"STATE"`
	Status       string `title:"STATUS"`

	labels map[string]string
}

// Label is the value of a label, for templates.
func (r psRow) Label(name string) string { return r.labels[name] }

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
			w.size = w.size || strings.Contains(w.format, ".Size")
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
	f.StringArrayVarP(&w.filters, "filter", "f", nil, "only those with id, name, label, status, exited, ancestor, health, volume, network, before or since = VALUE")
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
	if w.last > 0 {
		list = list[:min(w.last, len(list))]
	}
	// Who asks for a state, or for the last, asks for those that do not run, too.
	all := w.all || w.last > 0 || slices.ContainsFunc(w.filters, func(f string) bool {
		return strings.HasPrefix(f, "status=") || strings.HasPrefix(f, "exited=")
	})
	if !all {
		list = slices.DeleteFunc(list, func(c engine.ContainerInfo) bool { return !c.State.Up() })
	}
	rows := psRows(list, w.noTrunc)
	if w.detailed() {
		if err := addDetails(e, rows, list, w.noTrunc); err != nil {
			return err
		}
	}
	if w.size {
		if err := addSizes(e, rows, list); err != nil {
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

// detailed tells whether more than the usual columns is asked for.
func (w psWish) detailed() bool {
	return strings.Contains(w.format, "json") || strings.Contains(w.format, ".Label") ||
		strings.Contains(w.format, ".Mounts") || strings.Contains(w.format, ".Networks")
}

// addDetails fills in how the containers of the rows were made.
func addDetails(e *engine.Engine, rows []psRow, list []engine.ContainerInfo, noTrunc bool) error {
	for i := range rows {
		d, err := e.Details(list[i])
		if err != nil {
			return err
		}
		rows[i].labels, rows[i].Networks = d.Labels, d.Network
		var labels []string
		for _, name := range slices.Sorted(maps.Keys(d.Labels)) {
			labels = append(labels, name+"="+d.Labels[name])
		}
		rows[i].Labels = strings.Join(labels, ",")
		if !noTrunc {
			for k := range d.Mounts {
				d.Mounts[k] = ellipsis(d.Mounts[k], 15)
			}
		}
		rows[i].Mounts = strings.Join(d.Mounts, ",")
	}
	return nil
}

// addSizes fills in what the containers of the rows have on the disk.
func addSizes(e *engine.Engine, rows []psRow, list []engine.ContainerInfo) error {
	for i := range rows {
		own, all, err := e.SizeOf(list[i])
		if err != nil {
			return err
		}
		rows[i].Size = fmt.Sprintf("%s (virtual %s)", size(own), size(all))
	}
	return nil
}

func psList(format string) list[psRow] {
	return list[psRow]{
		table:  "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
		format: format,
	}
}

// shownCommand is a command as docker shows it, with quotes around what has blanks in it.
func shownCommand(words []string) string {
	list := slices.Clone(words)
	for i := range list {
		if i > 0 && strings.Contains(list[i], " ") {
			list[i] = "'" + list[i] + "'"
		}
	}
	return strings.Join(list, " ")
}

func psRows(list []engine.ContainerInfo, noTrunc bool) []psRow {
	var rows []psRow
	for _, c := range list {
		command := shownCommand(c.Command)
		if !noTrunc {
			command = ellipsis(command, 20)
		}
		rows = append(rows, psRow{
			ID: shortID(c.ID, noTrunc), Image: c.ImageName, Command: strconv.Quote(command),
			RunningFor: ago(c.Created), CreatedAt: stamp(c.Created),
			Status: status(c.State), State: c.State.Word(), Names: c.Name, LocalVolumes: "0",
		})
	}
	return rows
}

// status is the state of a container in docker's words.
func status(s container.State) string {
	switch s.Status {
	case container.Running:
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
	case container.Restarting:
		return fmt.Sprintf("Restarting (%d) %s", s.ExitCode, ago(s.Finished))
	case container.Exited:
		if s.Finished.IsZero() { // its supervisor was killed: nobody saw when
			return fmt.Sprintf("Exited (%d)", s.ExitCode)
		}
		return fmt.Sprintf("Exited (%d) %s", s.ExitCode, ago(s.Finished))
	}
	return "Created"
}
