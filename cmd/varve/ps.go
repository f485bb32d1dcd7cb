package main

import (
	"fmt"
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
}

// ps is `varve ps`.
func (c *cli) ps() *cobra.Command {
	var all, quiet, noTrunc bool
	var format string
	cmd := &cobra.Command{
		Use:   "ps [OPTIONS]",
		Short: "List containers",
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := c.open()
			if err != nil {
				return err
			}
			list, err := e.Containers()
			if err != nil {
				return err
			}
			rows := psRows(list, all, noTrunc)
			if quiet && format == "" {
				format = "{{.ID}}"
			}
			return psList(format).print(cmd.OutOrStdout(), rows)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "also those that do not run")
	f.BoolVarP(&quiet, "quiet", "q", false, "only the IDs")
	f.BoolVar(&noTrunc, "no-trunc", false, "cut nothing short")
	f.StringVar(&format, "format", "", "a Go template, 'table TEMPLATE' or json")
	return cmd
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
		if !all && c.State.Status != engine.Running {
			continue
		}
		command := strings.Join(c.Command, " ")
		if !noTrunc {
			command = ellipsis(command, 20)
		}
		rows = append(rows, psRow{
			ID: shortID(c.ID, noTrunc), Image: c.ImageName, Command: strconv.Quote(command),
			RunningFor: ago(c.Created), CreatedAt: stamp(c.Created),
			Status: status(c.State), State: string(c.State.Status), Names: c.Name,
		})
	}
	return rows
}

// status is the state of a container in docker's words.
func status(s engine.State) string {
	switch s.Status {
	case engine.Running:
		return "Up " + units.HumanDuration(time.Since(s.Started))
	case engine.Exited:
		if s.Finished.IsZero() { // its supervisor was killed: nobody saw when
			return fmt.Sprintf("Exited (%d)", s.ExitCode)
		}
		return fmt.Sprintf("Exited (%d) %s", s.ExitCode, ago(s.Finished))
	}
	return "Created"
}
