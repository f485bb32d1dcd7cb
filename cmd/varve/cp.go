package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/varvefs/varve/internal/engine"
)

// cp is `varve cp`.
func (c *cli) cp() *cobra.Command {
	var opt engine.CopyOptions
	var quiet bool
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n  varve cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files and directories between a container and this machine",
		Long: "Copy files and directories between a container, which runs or not, and this machine.\n\n" +
			"As cp -r does: a directory that is not there yet is made, one that is gets the source\n" +
			"inside, and what ends in /. is what is in a directory. '-' is a tar on stdin or stdout.",
		Example: "  varve cp web:/etc/nginx/nginx.conf .\n  varve cp site/. web:/srv\n  tar -c site | varve cp - web:/srv",
		Args:    exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("quiet") { // as docker
				quiet = !term.IsTerminal(int(os.Stdout.Fd()))
			}
			return c.copy(args[0], args[1], opt, quiet)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.Owners, "archive", "a", false, "keep the owners, or fail (default: kept in the container where they can be, the caller's outside)")
	f.BoolVarP(&opt.Follow, "follow-link", "L", false, "copy what SRC_PATH, a symbolic link, leads to")
	f.BoolVarP(&quiet, "quiet", "q", false, "do not say how much was copied (default: so if stdout is no terminal)")
	return cmd
}

func (c *cli) copy(from, to string, opt engine.CopyOptions, quiet bool) error {
	source, fromPath := splitCopy(from)
	target, toPath := splitCopy(to)
	switch {
	case fromPath == "":
		return errors.New("source can not be empty")
	case toPath == "":
		return errors.New("destination can not be empty")
	case source != "" && target != "":
		return errors.New("copying between containers is not supported")
	case source == "" && target == "":
		return errors.New("must specify at least one container source")
	}
	e, err := c.open()
	if err != nil {
		return err
	}
	var done engine.Copied
	switch {
	case source != "" && toPath == "-":
		_, err := e.ArchiveFrom(source, fromPath, os.Stdout, opt)
		return err
	case source != "":
		done, err = e.CopyFrom(source, fromPath, toPath, opt)
	case fromPath == "-":
		done, err = e.ArchiveTo(os.Stdin, target, toPath)
	default:
		done, err = e.CopyTo(fromPath, target, toPath, opt)
	}
	if err != nil {
		return err
	}
	if done.Omitted > 0 {
		fmt.Fprintf(os.Stderr, "varve: warning: %d device files were left out\n", done.Omitted)
	}
	if !quiet {
		fmt.Fprintln(os.Stderr, "Successfully copied", units.HumanSizeWithPrecision(float64(done.Bytes), 3), "to", to)
	}
	return nil
}

// splitCopy reads [CONTAINER:]PATH: what begins with '/' or '.' is a path of this machine.
func splitCopy(arg string) (container, path string) {
	container, path, ok := strings.Cut(arg, ":")
	if !ok || strings.HasPrefix(arg, "/") || strings.HasPrefix(container, ".") {
		return "", arg
	}
	return container, path
}
