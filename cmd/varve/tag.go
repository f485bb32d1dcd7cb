package main

import "github.com/spf13/cobra"

// tag is `varve tag`.
func (c *cli) tag() *cobra.Command {
	return &cobra.Command{
		Use:     "tag SOURCE[:TAG] TARGET[:TAG]",
		Short:   "Give an image one more name",
		Example: "  varve tag mine:1 example.org/mine:1",
		Args:    exactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := c.open()
			if err != nil {
				return err
			}
			return e.Tag(args[0], args[1])
		},
	}
}
