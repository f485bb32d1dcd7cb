package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// commit is `varve commit`.
func (c *cli) commit() *cobra.Command {
	var opt engine.CommitOptions
	var pause bool
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
				opt.NoPause = !pause
				id, warning, err := e.Commit(args[0], opt)
				if err != nil {
					return err
				}
				if warning != nil {
					fmt.Fprintln(os.Stderr, "varve: warning:", warning)
				}
				fmt.Fprintln(cmd.OutOrStdout(), "sha256:"+id)
				return nil
			})
		},
	}
	cmd.Flags().StringVarP(&opt.Message, "message", "m", "", "say what was done")
	cmd.Flags().StringVarP(&opt.Author, "author", "a", "", "say who did it, as in 'Ada <ada@example.org>'")
	cmd.Flags().StringArrayVarP(&opt.Changes, "change", "c", nil, "apply a Dockerfile instruction, as in 'CMD [\"sh\"]'")
	cmd.Flags().BoolVarP(&pause, "pause", "p", true, "stop the programs of a running container for the moment of the copy")
	return cmd
}
