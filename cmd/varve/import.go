package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// importVerb is `varve import`.
func (c *cli) importVerb() *cobra.Command {
	var opt engine.ImportOptions
	cmd := &cobra.Command{
		Use:     "import [OPTIONS] FILE|- [NAME[:TAG]]",
		Short:   "Make an image of one layer from a tar of a root file system",
		Example: "  varve import rootfs.tar.gz small:1\n  tar -C rootfs -c . | varve import - small:1",
		Args:    rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				opt.Ref = args[1]
			}
			return c.inside(func(e *engine.Engine) error {
				id, err := e.Import(args[0], opt)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), "sha256:"+id)
				return nil
			})
		},
	}
	cmd.Flags().StringVarP(&opt.Message, "message", "m", "", "say what it is (default: where it came from)")
	cmd.Flags().StringArrayVarP(&opt.Changes, "change", "c", nil, "apply a Dockerfile instruction, as in 'CMD [\"sh\"]'")
	return cmd
}
