package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// diff is `varve diff`.
func (c *cli) diff() *cobra.Command {
	return &cobra.Command{
		Use:   "diff CONTAINER",
		Short: "Show what a container has added (A), changed (C) and deleted (D)",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.inside(func(e *engine.Engine) error {
				changes, err := e.Diff(args[0])
				if err != nil {
					return err
				}
				for _, ch := range changes {
					fmt.Fprintf(cmd.OutOrStdout(), "%c %s\n", ch.Kind, ch.Path)
				}
				return nil
			})
		},
	}
}
