package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// doctor is `varve doctor`.
func (c *cli) doctor() *cobra.Command {
	return &cobra.Command{
		Use:     "doctor",
		Short:   "Show what this machine can do for this user, and the command that mends what is missing",
		Example: "  varve doctor",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(table, "WHAT\tIS\tFOUND\tNEEDED FOR\tMEND")
			for _, f := range engine.Doctor(c.root) {
				state := "missing"
				if f.OK {
					state = "ok"
				}
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", f.What, state, f.Says, f.For, f.Mend)
			}
			return table.Flush()
		},
	}
}
