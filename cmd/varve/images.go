package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// none stands where an image has no name.
const none = "<none>"

// imageRow is one line of `varve images`.
type imageRow struct {
	Repository   string `title:"REPOSITORY"`
	Tag          string `title:"TAG"`
	ID           string `title:"IMAGE ID"`
	CreatedSince string `title:"CREATED"`
	CreatedAt    string `title:"CREATED AT"`
	Size         string `title:"SIZE"`
}

// images is `varve images`.
func (c *cli) images() *cobra.Command {
	var all, quiet, noTrunc bool
	var format string
	cmd := &cobra.Command{
		Use:   "images [OPTIONS] [NAME[:TAG]]",
		Short: "List images",
		Args:  rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := c.open()
			if err != nil {
				return err
			}
			list, err := e.Images()
			if err != nil {
				return err
			}
			rows := imageRows(list, all, noTrunc, args)
			if quiet && format == "" {
				format, rows = "{{.ID}}", unique(rows)
			}
			return imageList(format).print(cmd.OutOrStdout(), rows)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "every layer of every image: the image first, then its layers")
	f.BoolVarP(&quiet, "quiet", "q", false, "only the IDs")
	f.BoolVar(&noTrunc, "no-trunc", false, "cut nothing short")
	f.StringVar(&format, "format", "", "a Go template, 'table TEMPLATE' or json")
	return cmd
}

func imageList(format string) list[imageRow] {
	return list[imageRow]{
		table:  "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
		format: format,
	}
}

// imageRows makes a row for each name of each image that wanted, if any, asks
// for; with all also one for each of its layers.
func imageRows(list []engine.ImageInfo, all, noTrunc bool, wanted []string) []imageRow {
	var rows []imageRow
	row := func(repo, tag, id string, created time.Time, bytes int64) {
		rows = append(rows, imageRow{repo, tag, imageID(id, noTrunc), ago(created), stamp(created), size(bytes)})
	}
	for _, i := range list {
		before := len(rows)
		for _, n := range i.Names() {
			if len(wanted) == 0 || wanted[0] == n.Repository || wanted[0] == n.Repository+":"+n.Tag {
				row(n.Repository, n.Tag, i.ID, i.Created, i.Size)
			}
		}
		if len(i.Refs) == 0 && len(wanted) == 0 {
			row(none, none, i.ID, i.Created, i.Size)
		}
		if !all || len(rows) == before {
			continue
		}
		for _, l := range i.Layers {
			row(none, none, l.ID, l.Created, l.Size)
		}
	}
	return rows
}

// unique leaves the first row of each ID.
func unique(rows []imageRow) []imageRow {
	seen := map[string]bool{}
	var kept []imageRow
	for _, r := range rows {
		if !seen[r.ID] {
			kept = append(kept, r)
		}
		seen[r.ID] = true
	}
	return kept
}
