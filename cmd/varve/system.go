package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// system is `varve system`.
func (c *cli) system() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "system",
		Short: "Look after the store",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(cmd, fmt.Errorf("%q is not a varve system command", args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.df(), c.prune(), c.systemCheck())
	return cmd
}

// usageRow is one line of `varve system df`.
type usageRow struct {
	Type        string `title:"TYPE"`
	TotalCount  string `title:"TOTAL"`
	Active      string `title:"ACTIVE"`
	Size        string `title:"SIZE"`
	Reclaimable string `title:"RECLAIMABLE"`
}

// df is `varve system df`.
func (c *cli) df() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "df [OPTIONS]",
		Short: "Show what needs the space of the store",
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.inside(func(e *engine.Engine) error {
				list, err := e.DiskUsage()
				if err != nil {
					return err
				}
				var rows []usageRow
				for _, u := range list {
					rows = append(rows, usageRow{
						u.Type, strconv.Itoa(u.Total), strconv.Itoa(u.Active), size(u.Size), share(u.Reclaimable, u.Size),
					})
				}
				return usageList(format).print(cmd.OutOrStdout(), rows)
			})
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "a Go template, 'table TEMPLATE' or json")
	return cmd
}

func usageList(format string) list[usageRow] {
	return list[usageRow]{
		table:  "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
		format: format,
	}
}

// share is a part of a size, with its percentage.
func share(part, whole int64) string {
	if whole == 0 {
		return size(part)
	}
	return fmt.Sprintf("%s (%d%%)", size(part), part*100/whole)
}

// prune is `varve system prune`.
func (c *cli) prune() *cobra.Command {
	var opt engine.PruneOptions
	var force bool
	cmd := &cobra.Command{
		Use:     "prune [OPTIONS]",
		Short:   "Remove containers that do not run, images without a name, and leftovers",
		Example: "  varve system prune -f --filter until=24h",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.inside(func(e *engine.Engine) error {
				if !force && !confirmed(cmd, pruneWarning(opt.All)) {
					return nil
				}
				done, err := e.Prune(opt)
				if err != nil {
					return err
				}
				printPruned(cmd.OutOrStdout(), done)
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&opt.All, "all", "a", false, "also images with a name that no container uses")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().StringArrayVar(&opt.Filters, "filter", nil, "until=TIME or AGE, label=NAME[=VALUE], label!=NAME[=VALUE]")
	return cmd
}

func pruneWarning(all bool) string {
	images := "all images without a name that nothing stands on"
	if all {
		images = "all images without at least one container associated to them"
	}
	return "WARNING! This will remove:\n  - all stopped containers\n  - " + images + "\n  - what interrupted commands left\n"
}

// confirmed asks, and takes only a clear yes.
func confirmed(cmd *cobra.Command, warning string) bool {
	fmt.Fprintf(cmd.OutOrStdout(), "%s\nAre you sure you want to continue? [y/N] ", warning)
	answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

func printPruned(w io.Writer, done engine.Pruned) {
	printSection(w, "Deleted Containers:", done.Containers)
	printSection(w, "Deleted Images:", done.Images)
	fmt.Fprintln(w, "Total reclaimed space: "+size(done.Space))
}

func printSection(w io.Writer, title string, lines []string) {
	if len(lines) > 0 {
		fmt.Fprintf(w, "%s\n%s\n\n", title, strings.Join(lines, "\n"))
	}
}

// systemCheck is `varve system check`.
func (c *cli) systemCheck() *cobra.Command {
	var opt engine.StoreCheckOptions
	cmd := &cobra.Command{
		Use:     "check [OPTIONS]",
		Short:   "Compare the records of the store with the files beside them, and remove leftovers",
		Example: "  varve system check --deep",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.inside(func(e *engine.Engine) error {
				done, err := e.CheckStore(opt)
				if err != nil {
					return err
				}
				return printChecked(cmd.OutOrStdout(), done, opt)
			})
		},
	}
	cmd.Flags().BoolVar(&opt.Deep, "deep", false, "read every file of every layer, and compare the digests")
	cmd.Flags().BoolVar(&opt.Repair, "repair", false, "first make the database again from what lies beside it")
	return cmd
}

// printChecked says what was looked at; what is wrong becomes errors.
func printChecked(w io.Writer, done engine.StoreChecked, opt engine.StoreCheckOptions) error {
	if opt.Repair {
		why := "nothing was wrong with the old one"
		if done.Repaired != "" {
			why = "of the old one: " + done.Repaired
		}
		fmt.Fprintf(w, "The database was made again; %s.\n", why)
	}
	if done.Swept > 0 {
		fmt.Fprintf(w, "Removed %d leftovers of interrupted commands.\n", done.Swept)
	}
	how := "looked at"
	if opt.Deep {
		how = "read"
	}
	fmt.Fprintf(w, "%d layers %s, %d images, %d containers: %d problems.\n", done.Layers, how, done.Images, done.Containers, len(done.Problems))
	for _, problem := range done.Problems {
		complain(errors.New(problem))
	}
	if len(done.Problems) > 0 {
		return exitError{code: 1}
	}
	return nil
}

// probe is the hidden verb that looks whether the database can be read.
func (c *cli) probe() *cobra.Command {
	return &cobra.Command{
		Use: "probe", Hidden: true, Args: exactArgs(0),
		Short: "Read the database (varve system check has it done)",
		RunE: func(*cobra.Command, []string) error {
			e, err := c.open()
			if err != nil {
				return err
			}
			return e.Probe()
		},
	}
}
