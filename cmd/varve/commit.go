package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// commit is `varve commit`.
func (c *cli) commit() *cobra.Command {
	var opt engine.CommitOptions
	cmd := &cobra.Command{
		Use:     "commit [OPTIONS] CONTAINER [NAME[:TAG]]",
		Short:   "Make an image of a container: its changes become a layer",
		Example: "  varve commit -m 'first layer' first mine:1",
		Args:    rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				opt.Ref = args[1]
			}
			return c.inside(func(e *engine.Engine) error {
				id, err := e.Commit(args[0], opt)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), "sha256:"+id)
				return nil
			})
		},
	}
	cmd.Flags().StringVarP(&opt.Message, "message", "m", "", "say what was done")
	cmd.Flags().StringVarP(&opt.Author, "author", "a", "", "say who did it, as in 'Ada <ada@example.org>'")
	cmd.Flags().StringArrayVarP(&opt.Changes, "change", "c", nil, "apply a Dockerfile instruction, as in 'CMD [\"sh\"]'")
	return cmd
}
