package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// mount is `varve mount`.
func (c *cli) mount() *cobra.Command {
	var options []string
	var foreground, debug, stats bool
	var format string
	cmd := &cobra.Command{
		Use:   "mount -o lowerdir=A[:B...][,upperdir=U,workdir=W][,OPTION...] [-f] [SOURCE] DIRECTORY",
		Short: "Mount a union of directories",
		Long: "Mount the union of the lower directories, the first of them on top, and of an upper that takes the changes.\n" +
			"Without an upper the view is read-only. It stays until 'umount DIRECTORY', or 'fusermount3 -u DIRECTORY'.\n" +
			"A colon or a comma in a path is written with a backslash before it. varve(1) lists all options.\n\n" +
			"With --stats nothing is mounted: it prints what a view has done so far that was mounted with -o stats=SOCKET.",
		Example: "  varve mount -o lowerdir=/usr,upperdir=up,workdir=work view\n" +
			"  varve mount -o lowerdir=/usr,stats=/run/view.sock view && varve mount --stats view",
		Args: rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if stats {
				return printStats(cmd, args, format)
			}
			r := mountRequest{target: args[len(args)-1], options: options, front: foreground}
			if len(args) == 2 {
				r.source = args[0]
			}
			if debug {
				r.options = append(r.options, "debug")
			}
			opt, unknown, err := engine.ParseMount(r.options)
			if err == nil && len(unknown) > 0 {
				err = fmt.Errorf("unknown mount option %q", unknown[0])
			}
			if err != nil {
				return usage(cmd, err)
			}
			opt.Named(r.source, "varve")
			return r.mount(opt, append([]string{"varve"}, c.args...))
		},
	}
	cmd.Flags().StringArrayVarP(&options, "options", "o", nil, "lowerdir=, upperdir=, workdir=, …, separated by commas")
	cmd.Flags().BoolVarP(&foreground, "foreground", "f", false, "stay in the foreground until it is unmounted")
	cmd.Flags().BoolVarP(&debug, "debug", "d", false, "log every request on stderr, and stay in the foreground")
	cmd.Flags().BoolVar(&stats, "stats", false, "print the figures of the view that is mounted at DIRECTORY, or has that stats socket")
	cmd.Flags().StringVar(&format, "format", "", "how --stats prints: json, or a Go template (default a table)")
	return cmd
}

// mountRequest is a mount as a command line asks for it.
type mountRequest struct {
	source, target string
	options        []string // the values of -o
	front          bool     // stay in the foreground
}

// mount does it, with the options parsed; args is the whole command line.
func (r mountRequest) mount(opt engine.MountOptions, args []string) error {
	if r.front || opt.InFront() || engine.InBackground() {
		return engine.Mount(r.target, opt)
	}
	err := engine.MountInBackground(r.target, args)
	if errors.Is(err, engine.ErrTold) {
		return exitError{code: 1}
	}
	return err
}
