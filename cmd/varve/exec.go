package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/varvefs/varve/internal/engine"
)

// exec is `varve exec`.
func (c *cli) exec() *cobra.Command {
	var opt engine.ExecOptions
	var detach, interactive bool
	var env, envFiles []string
	front := foreground{stdout: true, stderr: true}
	cmd := &cobra.Command{
		Use:     "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short:   "Run one more command in a container that runs",
		Example: "  varve exec -it web sh\n  varve exec -e DEBUG=1 -w /srv web ./status",
		Args:    rangeArgs(2, -1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := front.check(); err != nil {
				return usage(cmd, err)
			}
			if opt.Env, err = engine.AskedEnv(envFiles, env); err != nil {
				return err
			}
			opt.Args = args[1:]
			front.stdin = interactive
			e, err := c.open()
			if err != nil {
				return err
			}
			c.code, err = front.exec(e, args[0], opt, detach)
			var start *engine.StartError
			if errors.As(err, &start) {
				return exitError{start.Code, err}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&interactive, "interactive", "i", false, "give the command this stdin")
	f.BoolVarP(&opt.Terminal, "tty", "t", false, "give the command a terminal")
	f.BoolVarP(&detach, "detach", "d", false, "do not wait for it")
	f.VarP(checkedList{&env, engine.CheckEnv}, "env", "e", "set NAME=VALUE, or pass on NAME")
	f.StringArrayVar(&envFiles, "env-file", nil, "set what the lines of this file say")
	f.StringVarP(&opt.Workdir, "workdir", "w", "", "start in this directory (default: the container's)")
	f.StringVarP(&opt.User, "user", "u", "", "run as USER[:GROUP] (default: the container's)")
	f.BoolVar(&opt.Privileged, "privileged", false, "with all capabilities, and without a filter of system calls")
	f.StringVar(&front.detachKeys, "detach-keys", "ctrl-p,ctrl-q", "the keys that leave the command running")
	return cmd
}

// exec runs a command in a container, with this terminal, or these pipes, around it.
func (f *foreground) exec(e *engine.Engine, name string, opt engine.ExecOptions, detach bool) (int, error) {
	if opt.Terminal && f.stdin && !detach && !term.IsTerminal(int(os.Stdin.Fd())) {
		return 0, errors.New("the input device is not a TTY: leave out -t, or -i")
	}
	if detach {
		s, err := e.Exec(name, opt, nil)
		if err != nil {
			return 0, err
		}
		return 0, errors.Join(s.Started(), s.Detach())
	}
	f.catchSignals() // of size only: the command has no other signals of ours
	s, err := e.Exec(name, opt, f.options(opt.Terminal))
	if err != nil {
		return 0, err
	}
	return f.attend(s)
}
