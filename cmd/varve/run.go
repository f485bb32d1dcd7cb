package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/varvefs/varve/internal/engine"
)

// run is `varve run`.
func (c *cli) run() *cobra.Command {
	var opt engine.CreateOptions
	var detach bool
	var want wanted
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create a container from an image and run a command in it",
		Example: "  varve run --rm host sh -c 'rm -rf /etc; ls /'   # nothing happens to this machine's /etc\n" +
			"  varve run -it --name work mine:1 sh",
		Args: rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.Image, opt.Args = args[0], args[1:]
			if detach {
				return usage(cmd, errors.New("-d is not there yet: containers run in the foreground; put '&' behind the command"))
			}
			if err := want.check(); err != nil {
				return usage(cmd, err)
			}
			code, err := c.runForeground(opt, want)
			if err != nil {
				return exitError{codeUsage, err}
			}
			c.code = code
			return nil
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&detach, "detach", "d", false, "run in the background (not yet)")
	f.BoolVarP(&opt.Stdin, "interactive", "i", false, "give the command this stdin")
	f.BoolVarP(&opt.Terminal, "tty", "t", false, "give the command a terminal")
	f.BoolVar(&opt.Remove, "rm", false, "remove the container when it ends")
	f.StringVar(&opt.Name, "name", "", "name the container (default: one is made up)")
	f.StringArrayVarP(&opt.Env, "env", "e", nil, "set NAME=VALUE, or pass on NAME")
	f.StringVarP(&opt.Workdir, "workdir", "w", "", "start in this directory (default: the image's)")
	want.flags(cmd)
	isolationFlags(cmd, &opt.Isolation)
	f.StringArrayVarP(&opt.Volumes, "volume", "v", nil, "show a directory of the host inside, /DIR:/DIR[:ro]")
	return cmd
}

// runForeground runs a container with this terminal, or these pipes, around it.
func (c *cli) runForeground(opt engine.CreateOptions, want wanted) (int, error) {
	if opt.Terminal && opt.Stdin && !term.IsTerminal(int(os.Stdin.Fd())) {
		return 0, errors.New("the input device is not a TTY: leave out -t, or -i")
	}
	e, err := c.open()
	if err != nil {
		return 0, err
	}
	var signals <-chan os.Signal
	var r *engine.Run
	err = c.withImage(e, opt.Image, want, func() error {
		signals = catchSignals()
		if r, err = e.Start(opt); err != nil {
			signal.Reset(engine.ForwardedSignals()...) // while an image is fetched they are for us
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	if r.Warning != nil {
		fmt.Fprintln(os.Stderr, "varve: warning:", r.Warning)
	}
	return attach(r, signals, opt.Stdin)
}
