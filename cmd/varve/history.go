package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// historyRow is one line of `varve history`.
type historyRow struct {
	ID           string `title:"IMAGE"`
	CreatedSince string `title:"CREATED"`
	CreatedAt    string `title:"CREATED AT"`
	CreatedBy    string `title:"CREATED BY"`
	Size         string `title:"SIZE"`
	Comment      string `title:"COMMENT"`
}

// history is `varve history`.
func (c *cli) history() *cobra.Command {
	var quiet, noTrunc, human bool
	var format string
	cmd := &cobra.Command{
		Use:   "history [OPTIONS] IMAGE",
		Short: "Show the layers of an image, the newest first",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := c.open()
			if err != nil {
				return err
			}
			list, err := e.History(args[0])
			if err != nil {
				return err
			}
			if quiet && format == "" {
				format = "{{.ID}}"
			}
			return historyList(format, human).print(cmd.OutOrStdout(), historyRows(list, noTrunc, human))
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&human, "human", "H", true, "sizes and times for people")
	f.BoolVarP(&quiet, "quiet", "q", false, "only the IDs")
	f.BoolVar(&noTrunc, "no-trunc", false, "cut nothing short")
	f.StringVar(&format, "format", "", "a Go template, 'table TEMPLATE' or json")
	return cmd
}

func historyList(format string, human bool) list[historyRow] {
	created := "{{.CreatedSince}}"
	if !human {
		created = "{{.CreatedAt}}"
	}
	return list[historyRow]{
		table:  "{{.ID}}\t" + created + "\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
		format: format,
	}
}

func historyRows(list []engine.HistoryEntry, noTrunc, human bool) []historyRow {
	var rows []historyRow
	for _, h := range list {
		r := historyRow{
			ID: "<missing>", CreatedSince: ago(h.Created), CreatedAt: h.Created.Format(time.RFC3339),
			CreatedBy: strings.ReplaceAll(h.CreatedBy, "\t", " "), Size: size(h.Size), Comment: h.Comment,
		}
		if h.ImageID != "" {
			r.ID = imageID(h.ImageID, noTrunc)
		}
		if !noTrunc {
			r.CreatedBy = ellipsis(r.CreatedBy, 45)
		}
		if !human {
			r.Size = strconv.FormatInt(h.Size, 10)
		}
		rows = append(rows, r)
	}
	return rows
}
