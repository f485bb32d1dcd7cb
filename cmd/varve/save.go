package main

import (
	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// save is `varve save`.
func (c *cli) save() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "save [OPTIONS] IMAGE [IMAGE...]",
		Short:   "Write images, with every layer, to an archive for docker, podman and skopeo",
		Example: "  varve save -o mine.tar mine:1",
		Args:    rangeArgs(1, -1),
		RunE: func(_ *cobra.Command, args []string) error {
			return c.inside(func(e *engine.Engine) error {
				out, err := openOutput(file)
				if err != nil {
					return err
				}
				return out.finish(e.Save(out, args))
			})
		},
	}
	cmd.Flags().StringVarP(&file, "output", "o", "", "write to this file (default: stdout)")
	return cmd
}
