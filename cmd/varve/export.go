package main

import (
	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// export is `varve export`.
func (c *cli) export() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "export [OPTIONS] CONTAINER",
		Short:   "Write all that a container sees to one tar",
		Example: "  varve export -o first.tar first",
		Args:    exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return c.inside(func(e *engine.Engine) error {
				out, err := openOutput(file)
				if err != nil {
					return err
				}
				return out.finish(e.Export(out, args[0]))
			})
		},
	}
	cmd.Flags().StringVarP(&file, "output", "o", "", "write to this file (default: stdout)")
	return cmd
}
