package main

import (
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// none stands where an image has no name.
const none = "<none>"

// imageRow is one line of `varve images`. What docker's JSON has and a layer store
// does not know is "N/A", as in docker.
type imageRow struct {
	Containers   string `title:"CONTAINERS"`
	CreatedAt    string `title:"CREATED AT"`
	CreatedSince string `title:"CREATED"`
	Digest       string `title:"DIGEST"`
	ID           string `title:"IMAGE ID"`
	Repository   string `title:"REPOSITORY"`
	SharedSize   string `title:"SHARED SIZE"`
	Size         string `title:"SIZE"`
	Tag          string `title:"TAG"`
	UniqueSize   string `title:"UNIQUE SIZE"`
}

// imagesOptions are the flags of `varve images`.
type imagesOptions struct {
	all, quiet, noTrunc, digests, tree bool
	format                             string
	filters                            []string
}

// images is `varve images`.
func (c *cli) images() *cobra.Command {
	var opt imagesOptions
	cmd := &cobra.Command{
		Use:     "images [OPTIONS] [NAME[:TAG]]",
		Short:   "List images",
		Example: "  varve images -a mine:1\n  varve images --tree\n  varve images -f dangling=true -q",
		Args:    rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opt.tree && (opt.quiet || opt.format != "") {
				return usage(cmd, errors.New("--tree draws, and goes neither with --quiet nor with --format"))
			}
			e, err := c.open()
			if err != nil {
				return err
			}
			for _, name := range args {
				opt.filters = append(opt.filters, "reference="+name)
			}
			list, err := e.Images(opt.filters...)
			if err != nil {
				return err
			}
			if opt.tree {
				return drawImages(cmd.OutOrStdout(), list, opt.noTrunc)
			}
			rows := imageRows(list, opt)
			if opt.quiet && opt.format == "" {
				opt.format, rows = "{{.ID}}", unique(rows)
			}
			return imageList(opt).print(cmd.OutOrStdout(), rows)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.all, "all", "a", false, "every layer of every image: the image first, then its layers")
	f.BoolVarP(&opt.quiet, "quiet", "q", false, "only the IDs")
	f.BoolVar(&opt.noTrunc, "no-trunc", false, "cut nothing short")
	f.BoolVar(&opt.digests, "digests", false, "the digest that a registry knows the image by, too")
	f.BoolVar(&opt.tree, "tree", false, "draw how the layers of the images stand on each other")
	f.StringArrayVarP(&opt.filters, "filter", "f", nil, "dangling=true, label=NAME[=VALUE], before=IMAGE, since=IMAGE or reference=PATTERN")
	f.StringVar(&opt.format, "format", "", "a Go template, 'table TEMPLATE' or json")
	return cmd
}

func imageList(opt imagesOptions) list[imageRow] {
	digest := ""
	if opt.digests {
		digest = "{{.Digest}}\t"
	}
	return list[imageRow]{
		table:  "{{.Repository}}\t{{.Tag}}\t" + digest + "{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
		format: opt.format,
	}
}

// imageRows makes a row for each name of each image; with -a also one for each of
// its layers.
func imageRows(list []engine.ImageInfo, opt imagesOptions) []imageRow {
	var rows []imageRow
	row := func(repo, tag, id string, created time.Time, bytes int64) {
		rows = append(rows, imageRow{
			Repository: repo, Tag: tag, ID: imageID(id, opt.noTrunc), CreatedSince: ago(created), CreatedAt: stamp(created), Size: size(bytes),
			Digest: none, Containers: "N/A", SharedSize: "N/A", UniqueSize: "N/A",
		})
	}
	for _, i := range list {
		for _, n := range i.Names() {
			row(n.Repository, n.Tag, i.ID, i.Created, i.Size)
			rows[len(rows)-1].Digest = digestIn(n.Repository, i.Digests)
		}
		if len(i.Refs) == 0 {
			row(none, none, i.ID, i.Created, i.Size)
		}
		if !opt.all {
			continue
		}
		for _, l := range i.Layers {
			row(none, none, l.ID, l.Created, l.Size)
		}
	}
	return rows
}

// digestIn is the digest by which a repository has an image.
func digestIn(repository string, names []string) string {
	for _, name := range names {
		if d, ok := strings.CutPrefix(name, repository+"@"); ok {
			return d
		}
	}
	return none
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
