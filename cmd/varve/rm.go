package main

import (
	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// rm is `varve rm`.
func (c *cli) rm() *cobra.Command {
	var force, volumes bool
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Remove containers",
		Args:  rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := c.open()
			if err != nil {
				return err
			}
			return each(cmd, args, func(name string) (string, error) {
				err := e.RemoveContainer(name, force)
				if force && engine.IsNoSuchContainer(err) { // told, and what was wanted
					complain(err)
					return "", nil
				}
				if err != nil {
					return "", err
				}
				return name, nil
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill it first if it runs")
	cmd.Flags().BoolVarP(&volumes, "volumes", "v", false, "with its anonymous volumes (there are none yet)")
	return cmd
}
