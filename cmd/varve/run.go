package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/engine"
)

// run is `varve run`.
func (c *cli) run() *cobra.Command {
	var a creation
	var detach bool
	var streams []string
	front := foreground{}
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create a container from an image and run a command in it",
		Example: "  varve run --rm host sh -c 'rm -rf /home; ls /'   # nothing happens to this machine's /home\n" +
			"  varve run -it --name work mine:1 sh\n" +
			"  varve run -d --name web --restart on-failure mine:1 serve",
		Args: rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.read(cmd, args); err != nil {
				return err
			}
			if err := front.check(); err != nil {
				return usage(cmd, err)
			}
			if detach && len(streams) > 0 {
				return usage(cmd, errors.New("conflicting options: cannot specify both --attach and --detach"))
			}
			a.opt.Detached = detach
			front.choose(streams, a.opt.Stdin)
			code, err := c.runContainer(&a, front)
			var start *engine.StartError
			if errors.As(err, &start) {
				return exitError{start.Code, err}
			}
			if err != nil {
				return exitError{codeUsage, err}
			}
			c.code = code
			return nil
		},
	}
	a.flags(cmd)
	f := cmd.Flags()
	f.BoolVarP(&detach, "detach", "d", false, "run in the background and print the ID of the container")
	f.VarP(checkedList{&streams, checkStream}, "attach", "a", "connect only stdin, stdout or stderr")
	front.flags(cmd)
	return cmd
}

// checkStream is docker's rule for -a.
func checkStream(name string) error {
	if slices.Contains([]string{"stdin", "stdout", "stderr"}, strings.ToLower(name)) {
		return nil
	}
	return errors.New("valid streams are STDIN, STDOUT and STDERR")
}

// choose takes the streams of -a. Without it stdout and stderr are connected, and stdin
// if it is asked for.
func (f *foreground) choose(streams []string, interactive bool) {
	f.stdin, f.stdout, f.stderr = interactive, true, true
	if len(streams) == 0 {
		return
	}
	asked := strings.ToLower(strings.Join(streams, " "))
	f.stdin = interactive && strings.Contains(asked, "stdin")
	f.stdout, f.stderr = strings.Contains(asked, "stdout"), strings.Contains(asked, "stderr")
}

// runContainer runs a container with this terminal, or these pipes, around it, or in
// the background.
func (c *cli) runContainer(a *creation, front foreground) (code int, err error) {
	if a.opt.Terminal && front.stdin && !a.opt.Detached && !term.IsTerminal(int(os.Stdin.Fd())) {
		return 0, errors.New("the input device is not a TTY: leave out -t, or -i")
	}
	e, err := c.open()
	if err != nil {
		return 0, err
	}
	cid, err := openCID(a.cidfile)
	if err != nil {
		return 0, err
	}
	s, err := c.startRun(e, a, &front)
	id := ""
	if err == nil {
		id = s.ID
	}
	if err = errors.Join(err, cid.finish(id)); err != nil {
		return 0, err
	}
	if s.Warning != nil {
		fmt.Fprintln(os.Stderr, "varve: warning:", s.Warning)
	}
	if !a.opt.Detached {
		return front.attend(s)
	}
	fmt.Println(id) // also of one that could not be started, as docker does
	return 0, errors.Join(s.Started(), s.Detach())
}

// startRun starts the container, and fetches its image if that is missing.
func (c *cli) startRun(e *engine.Engine, a *creation, front *foreground) (s *engine.Session, err error) {
	var attach *engine.AttachOptions
	if !a.opt.Detached {
		attach = front.options(a.opt.Terminal)
	}
	err = c.withImage(e, a.opt.Image, a.want, func() error {
		if !a.opt.Detached {
			front.catchSignals()
		}
		if s, err = e.Run(a.opt, attach); err != nil {
			signal.Reset(container.ForwardedSignals()...) // while an image is fetched they are for us
		}
		return err
	})
	return s, err
}
