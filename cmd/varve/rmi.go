package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// rmi is `varve rmi`.
func (c *cli) rmi() *cobra.Command {
	var opt engine.RemoveImageOptions
	cmd := &cobra.Command{
		Use:   "rmi [OPTIONS] IMAGE [IMAGE...]",
		Short: "Remove images",
		Args:  rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := c.open()
			if err != nil {
				return err
			}
			return each(cmd, args, func(name string) (string, error) {
				lines, err := e.RemoveImage(name, opt)
				return strings.Join(lines, "\n"), err
			})
		},
	}
	cmd.Flags().BoolVarP(&opt.Force, "force", "f", false, "also if containers or other images use it")
	cmd.Flags().BoolVar(&opt.NoPrune, "no-prune", false, "keep nameless parents")
	return cmd
}
