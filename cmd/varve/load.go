package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/varvefs/varve/internal/engine"
)

// load is `varve load`.
func (c *cli) load() *cobra.Command {
	var file string
	var quiet bool
	cmd := &cobra.Command{
		Use:     "load [OPTIONS]",
		Short:   "Bring in the images of an archive that docker, podman, skopeo, umoci or 'varve save' wrote",
		Example: "  varve load -i mine.tar\n  ssh other docker save mine:1 | varve load",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" && term.IsTerminal(int(os.Stdin.Fd())) {
				return errors.New("requested load from stdin, but stdin is a terminal: use -i FILE, or redirect")
			}
			return c.inside(func(e *engine.Engine) error {
				bars := newBars(os.Stderr, quiet)
				list, err := e.Load(file, bars.step)
				bars.finish()
				for _, image := range list {
					printLoaded(cmd.OutOrStdout(), image)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&file, "input", "i", "", "read from this file (default: stdin)")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// printLoaded says in docker's words what came in.
func printLoaded(w io.Writer, image engine.Loaded) {
	if len(image.Refs) == 0 {
		fmt.Fprintln(w, "Loaded image ID: sha256:"+image.ID)
	}
	for _, ref := range image.Refs {
		name := engine.Familiar(ref)
		if old := image.Replaced[ref]; old != "" {
			fmt.Fprintf(w, "The image %s already exists, renaming the old one with ID sha256:%s to empty string\n", name, old)
		}
		fmt.Fprintln(w, "Loaded image: "+name)
	}
}
