package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// logs is `varve logs`.
func (c *cli) logs() *cobra.Command {
	var opt engine.LogsOptions
	var tail string
	var times bool
	cmd := &cobra.Command{
		Use:     "logs [OPTIONS] CONTAINER",
		Short:   "Show what a container has said",
		Example: "  varve logs -f --tail 10 web\n  varve logs --since 1h -t web",
		Args:    exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) (err error) {
			if opt.Tail, err = parseTail(tail); err != nil {
				return err
			}
			e, err := c.open()
			if err != nil {
				return err
			}
			return showLogs(e, args[0], opt, times)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.Follow, "follow", "f", false, "go on with what it says from now on")
	f.StringVarP(&tail, "tail", "n", "all", "so many lines from the end")
	f.StringVar(&opt.Since, "since", "", "from a time on, as in 2006-01-02T15:04:05, or how long ago, as in 10m")
	f.StringVar(&opt.Until, "until", "", "up to a time")
	f.BoolVarP(&times, "timestamps", "t", false, "with the time of each line")
	return cmd
}

func parseTail(text string) (int, error) {
	if text == "all" || text == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("invalid --tail %q: it is a number, or all", text)
	}
	return n, nil
}

// showLogs prints the log, each stream to its own.
func showLogs(e *engine.Engine, name string, opt engine.LogsOptions, times bool) error {
	out := bufio.NewWriterSize(os.Stdout, 64<<10)
	err := e.Logs(name, opt, func(entry engine.LogEntry) error {
		to := out
		if entry.Stream == "stderr" {
			if err := out.Flush(); err != nil { // the two keep their order
				return err
			}
			to = bufio.NewWriter(os.Stderr)
		}
		if times {
			// Docker's, which has nine digits always.
			_, _ = to.WriteString(entry.Time.UTC().Format("2006-01-02T15:04:05.000000000Z07:00 ")) // Flush tells
		}
		_, _ = to.WriteString(entry.Log) // likewise
		if opt.Follow || to != out {
			return to.Flush()
		}
		return nil
	})
	return errors.Join(err, out.Flush())
}
