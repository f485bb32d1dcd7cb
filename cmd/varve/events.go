package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/engine"
)

// events is `varve events`.
func (c *cli) events() *cobra.Command {
	var opt engine.EventOptions
	var format string
	cmd := &cobra.Command{
		Use:   "events [OPTIONS]",
		Short: "Show what happens to containers and images",
		Long: "Show what happens to containers and images from now on, or has happened since a time.\n\n" +
			"There is no daemon: each verb and each container's supervisor notes what it does in the\n" +
			"store, in two files of at most 1 MiB, of which the older one is dropped.",
		Example: "  varve events --since 1h --until 0s\n  varve events -f event=die --format '{{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}'",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			show, err := eventPrinter(cmd.OutOrStdout(), format)
			if err != nil {
				return err
			}
			e, err := c.open()
			if err != nil {
				return err
			}
			go func() { // so that Ctrl-C is no failure
				stop := make(chan os.Signal, 1)
				signal.Notify(stop, unix.SIGINT, unix.SIGTERM)
				<-stop
				os.Exit(0)
			}()
			return e.Events(opt, show)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.Since, "since", "", "from a time on, as in 2006-01-02T15:04:05, or how long ago, as in 10m")
	f.StringVar(&opt.Until, "until", "", "up to a time")
	f.StringArrayVarP(&opt.Filters, "filter", "f", nil, "only those with type, event, container, image or label = VALUE")
	f.StringVar(&format, "format", "", "a Go template, or json")
	return cmd
}

// eventPrinter writes events in docker's line, as JSON or by a template.
func eventPrinter(w io.Writer, format string) (func(engine.Event) error, error) {
	switch format {
	case "":
		return func(ev engine.Event) error { return writeEvent(w, ev) }, nil
	case "json", "{{json .}}":
		return func(ev engine.Event) error { return printJSON(w, []engine.Event{ev}) }, nil
	}
	var t *template.Template
	t, err := parseTemplate(unescape(format))
	if err != nil {
		return nil, err
	}
	return func(ev engine.Event) error {
		if err := t.Execute(w, ev); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		_, err := fmt.Fprintln(w)
		return err
	}, nil
}

// writeEvent writes docker's line, whose time has nine digits always.
func writeEvent(w io.Writer, ev engine.Event) error {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(ev.Actor.Attributes)) {
		list = append(list, key+"="+ev.Actor.Attributes[key])
	}
	attributes := ""
	if len(list) > 0 {
		attributes = " (" + strings.Join(list, ", ") + ")"
	}
	when := time.Unix(0, ev.TimeNano).Format("2006-01-02T15:04:05.000000000Z07:00")
	_, err := fmt.Fprintf(w, "%s %s %s %s%s\n", when, ev.Type, printable(ev.Action), ev.Actor.ID, printable(attributes))
	return err
}
