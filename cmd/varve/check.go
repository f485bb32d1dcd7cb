package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// check is `varve check`.
func (c *cli) check() *cobra.Command {
	var opt engine.CheckOptions
	var format string
	cmd := &cobra.Command{
		Use:   "check [--convert overlay|oci] [--work DIRECTORY] [--format json] DIRECTORY...",
		Short: "Check the marks of layers and uppers, and convert them between dialects",
		Long: "Tell what marks the directory of a layer, or an upper, has for the layers below it: whiteouts, opaque\n" +
			"directories, redirects; and what is wrong with them, a line each. The exit code is 1 if something is.\n\n" +
			"With --convert the marks are rewritten in place, in the dialect of overlayfs or in that of images. The directory\n" +
			"means the same at every moment, and an interrupted conversion may be begun again. Nothing is changed if not\n" +
			"all of it can be said in the other dialect, or if it is mounted.",
		Example: "  varve check up\n  varve check --convert oci --work work up",
		Args:    rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case format != "" && format != "json":
				return usage(cmd, fmt.Errorf("unknown format %q: it is json, or none for text", format))
			case opt.Convert != "" && opt.Convert != "overlay" && opt.Convert != "oci":
				return usage(cmd, fmt.Errorf("unknown dialect %q: it is overlay or oci", opt.Convert))
			case opt.Work != "" && len(args) > 1:
				return usage(cmd, errors.New("--work is the work directory of one upper: check them one by one"))
			}
			return c.checkAll(cmd.OutOrStdout(), args, opt, format)
		},
	}
	cmd.Flags().StringVar(&opt.Convert, "convert", "", "rewrite the marks as overlay (devices, attributes) or oci (.wh. files)")
	cmd.Flags().StringVar(&opt.Work, "work", "", "the upper's work directory, to look at what is left there, too")
	cmd.Flags().StringVar(&format, "format", "", "json: one document a directory (default text)")
	return cmd
}

// checkAll checks all directories, also after one has failed. Problems make the exit
// code 1, as failures do.
func (c *cli) checkAll(out io.Writer, dirs []string, opt engine.CheckOptions, format string) error {
	for _, dir := range dirs {
		check, err := engine.CheckLayer(dir, opt)
		if err != nil {
			complain(err)
			c.code = 1
			continue
		}
		if len(check.Problems) > 0 {
			c.code = 1
		}
		if format == "json" {
			err = json.NewEncoder(out).Encode(check)
		} else {
			err = writeCheck(out, check)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeCheck writes a line of counts, and one for each problem.
func writeCheck(w io.Writer, c *engine.LayerCheck) error {
	if c.ConvertedTo != "" {
		fmt.Fprintf(w, "%s: converted to %s: %s written, %s removed\n", c.Dir, c.ConvertedTo,
			several(c.Conversion.Written, "mark"), several(c.Conversion.Removed, "mark"))
	}
	dialects := strings.Join(c.Dialects, " and ")
	if dialects == "" {
		dialects = "no marks"
	}
	_, err := fmt.Fprintf(w, "%s: %s; %s, %s, %s, %s opaque, %s, %d metacopy\n", c.Dir, dialects,
		several(c.Files, "file"), plural(c.Directories, "directory", "directories"),
		several(c.Whiteouts, "whiteout"), fmt.Sprint(c.Opaque), several(c.Redirects, "redirect"), c.Metacopy)
	for _, p := range c.Problems {
		_, err = fmt.Fprintf(w, "%s: problem: %s\n", c.Dir, p)
	}
	return err
}

func several(n int, noun string) string { return plural(n, noun, noun+"s") }

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
