package main

import (
	"github.com/spf13/cobra"
)

// rm is `varve rm`.
func (c *cli) rm() *cobra.Command {
	var force bool
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
				if err := e.RemoveContainer(name, force); err != nil {
					return "", err
				}
				return name, nil
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill it first if it runs")
	return cmd
}
