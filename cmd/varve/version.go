package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// versionInfo is what templates of `varve version` see. There is no daemon, so the
// server is the client.
type versionInfo struct{ Client, Server versionPart }

type versionPart struct {
	Version   string
	GoVersion string
	Os        string
	Arch      string
}

// version is `varve version`.
func (c *cli) version() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "version [OPTIONS]",
		Short:   "Print the version",
		Example: "  varve version -f '{{.Client.Version}}'",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format == "" {
				fmt.Fprintf(cmd.OutOrStdout(), "varve %s (%s %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return nil
			}
			part := versionPart{version, runtime.Version(), runtime.GOOS, runtime.GOARCH}
			return showOne(cmd.OutOrStdout(), versionInfo{part, part}, format)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "a Go template, or json")
	return cmd
}
