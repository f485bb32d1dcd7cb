package main

import (
	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// healthFlags are those of the checks of a container.
func healthFlags(cmd *cobra.Command, h *engine.HealthOptions) {
	f := cmd.Flags()
	f.StringVar(&h.Cmd, "health-cmd", "", "a line for the shell that tells whether the container is well")
	f.DurationVar(&h.Interval, "health-interval", 0, "the time between two checks (default: the image's, or 30s)")
	f.DurationVar(&h.Timeout, "health-timeout", 0, "the time that a check may take (default: the image's, or 30s)")
	f.IntVar(&h.Retries, "health-retries", 0, "so many failures in a row make it unhealthy (default: the image's, or 3)")
	f.DurationVar(&h.StartPeriod, "health-start-period", 0, "the time in which failures do not count (default: the image's, or none)")
	f.DurationVar(&h.StartInterval, "health-start-interval", 0, "the time between two checks in that (default: the image's, or 5s)")
	f.BoolVar(&h.None, "no-healthcheck", false, "no checks, whatever the image says")
}
