package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// port is `varve port`. No port can be published yet, so there is none to be listed.
func (c *cli) port() *cobra.Command {
	return &cobra.Command{
		Use:     "port CONTAINER [PRIVATE_PORT[/PROTO]]",
		Short:   "Show the published ports of a container (none can be published yet)",
		Example: "  varve port web",
		Args:    rangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := c.open()
			if err != nil {
				return err
			}
			if _, _, err := e.Streams(args[0]); err != nil {
				return err
			}
			if len(args) == 2 {
				//lint:ignore ST1005 docker's words
				return fmt.Errorf("No public port '%s' published for %s", args[1], args[0])
			}
			return nil
		},
	}
}
