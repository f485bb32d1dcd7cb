package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// inspect is `varve inspect`.
func (c *cli) inspect() *cobra.Command {
	var opt engine.InspectOptions
	var format string
	cmd := &cobra.Command{
		Use:     "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short:   "Show all that is known of containers and images",
		Example: "  varve inspect -f '{{.State.Status}} {{.Upper}}' mine\n  varve inspect --type image mine:1",
		Args:    rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := opt.Check(); err != nil {
				return err
			}
			show := func(e *engine.Engine) error { return inspectAll(cmd, e, args, format, opt) }
			if opt.Size {
				return c.inside(show)
			}
			e, err := c.open()
			if err != nil {
				return err
			}
			return show(e)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&format, "format", "f", "", "a Go template, or json")
	f.BoolVarP(&opt.Size, "size", "s", false, "the sizes of a container's files, too")
	f.StringVar(&opt.Type, "type", "", "container or image (default: the first that has the name)")
	return cmd
}

// inspectAll shows what is found, then complains about the rest.
func inspectAll(cmd *cobra.Command, e *engine.Engine, args []string, format string, opt engine.InspectOptions) error {
	write, err := inspectWriter(format)
	if err != nil {
		return err
	}
	found := []any{}
	failed := each(cmd, args, func(name string) (string, error) {
		object, err := e.Inspect(name, opt)
		if err == nil {
			found = append(found, object)
		}
		return "", err
	})
	if err := write(cmd.OutOrStdout(), found); err != nil {
		return err
	}
	return failed
}

// inspectWriter is how the objects are printed.
func inspectWriter(format string) (func(io.Writer, []any) error, error) {
	if format == "" {
		return func(w io.Writer, list []any) error {
			enc := json.NewEncoder(w)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "    ")
			return enc.Encode(list)
		}, nil
	}
	if format == "json" {
		return func(w io.Writer, list []any) error { return printJSON(w, []any{list}) }, nil // as docker
	}
	t, err := parseTemplate(unescape(format))
	if err != nil {
		return nil, err
	}
	return func(w io.Writer, list []any) error {
		for _, object := range list {
			var line bytes.Buffer
			err := t.Execute(&line, object)
			if err != nil { // by the keys of the JSON, as in {{.Id}}
				line.Reset()
				var raw any
				if raw, err = asMap(object); err == nil {
					err = t.Option("missingkey=error").Execute(&line, raw)
				}
			}
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			if _, err := fmt.Fprintln(w, line.String()); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// asMap is the object as its JSON has it.
func asMap(object any) (any, error) {
	raw, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var out any
	return out, dec.Decode(&out)
}
