package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/engine"
)

// start is `varve start`.
func (c *cli) start() *cobra.Command {
	var attach, interactive, all bool
	var filters []string
	front := foreground{stdout: true, stderr: true}
	cmd := &cobra.Command{
		Use:     "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short:   "Start containers that do not run, with their files as they were",
		Example: "  varve start work\n  varve start -ai work\n  varve start --all --filter restart-policy=always   # after a boot",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkAll(cmd, args, all, attach || interactive, filters); err != nil {
				return err
			}
			if err := front.check(); err != nil {
				return usage(cmd, err)
			}
			e, err := c.open()
			if err != nil {
				return err
			}
			if all {
				if args, err = e.Startable(filters...); err != nil {
					return err
				}
			}
			if !attach && !interactive {
				return startEach(cmd, e, args)
			}
			if len(args) > 1 {
				return errors.New("you cannot start and attach multiple containers at once")
			}
			front.stdin = interactive
			code, err := front.start(e, args[0])
			var start *engine.StartError
			if errors.As(err, &start) {
				return exitError{start.Code, err}
			}
			c.code = code
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&attach, "attach", "a", false, "connect stdout and stderr, and hand signals on")
	f.BoolVarP(&interactive, "interactive", "i", false, "connect stdin, too")
	f.BoolVar(&all, "all", false, "start all that do not run")
	f.StringArrayVarP(&filters, "filter", "f", nil, "of all those only: restart-policy=always, label=NAME, …, as of ps")
	front.flags(cmd)
	return cmd
}

// startEach starts containers in the background.
func startEach(cmd *cobra.Command, e *engine.Engine, args []string) error {
	var failed []string
	err := each(cmd, args, func(name string) (string, error) {
		if err := startOne(e, name); err != nil {
			failed = append(failed, name)
			return "", err
		}
		return name, nil
	})
	if err != nil {
		return exitError{1, fmt.Errorf("failed to start containers: %s", strings.Join(failed, ", "))}
	}
	return nil
}

// checkAll refuses what does not go together with --all, and names without it.
func checkAll(cmd *cobra.Command, args []string, all, attach bool, filters []string) error {
	switch {
	case !all && len(filters) > 0:
		return usage(cmd, errors.New("--filter needs --all"))
	case !all:
		return rangeArgs(1, -1)(cmd, args)
	case len(args) > 0:
		return usage(cmd, errors.New("--all and names of containers do not go together"))
	case attach:
		return usage(cmd, errors.New("--all and -a or -i do not go together"))
	}
	return nil
}

// startOne starts a container in the background.
func startOne(e *engine.Engine, name string) error {
	s, err := e.Start(name, nil)
	if err != nil || s == nil {
		return err
	}
	warn(s)
	return errors.Join(s.Started(), s.Detach())
}

func warn(s *engine.Session) {
	if s.Warning != nil {
		fmt.Fprintln(os.Stderr, "varve: warning:", s.Warning)
	}
}

// start starts a container with this terminal, or these pipes, around it.
func (f *foreground) start(e *engine.Engine, name string) (int, error) {
	terminal, interactive, err := e.Streams(name)
	if err != nil {
		return 0, err
	}
	f.stdin = f.stdin && interactive
	if terminal && f.stdin && !term.IsTerminal(int(os.Stdin.Fd())) {
		return 0, errors.New("the input device is not a TTY: leave out -i")
	}
	f.catchSignals()
	s, err := e.Start(name, f.options(terminal))
	if err != nil {
		return 0, err
	}
	warn(s)
	return f.attend(s)
}

// stopFlags are those of stop and restart.
func stopFlags(cmd *cobra.Command) (read func() (container.StopOptions, error)) {
	var timeout int
	var signal string
	cmd.Flags().IntVarP(&timeout, "timeout", "t", 10, "seconds to wait before it is killed; -1 is for ever (default: the container's own, or 10)")
	cmd.Flags().IntVar(&timeout, "time", 10, "the same")
	_ = cmd.Flags().MarkHidden("time") // it is there
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "the signal to send (default: the container's own, or SIGTERM)")
	return func() (opt container.StopOptions, err error) {
		if cmd.Flags().Changed("timeout") || cmd.Flags().Changed("time") {
			opt.Timeout = &timeout
		}
		if signal != "" {
			opt.Signal, err = container.ParseSignal(signal)
		}
		return opt, err
	}
}

// perContainer is a verb that does one thing to each of its containers and prints
// their names as they were given.
func (c *cli) perContainer(cmd *cobra.Command, args []string, fn func(*engine.Engine, string) error) error {
	e, err := c.open()
	if err != nil {
		return err
	}
	return each(cmd, args, func(name string) (string, error) {
		if err := fn(e, name); err != nil {
			return "", err
		}
		return name, nil
	})
}

// stop is `varve stop`.
func (c *cli) stop() *cobra.Command {
	return c.stopping("stop", "Stop containers: SIGTERM, and SIGKILL for who does not end", func(*engine.Engine, string) error { return nil })
}

// restart is `varve restart`.
func (c *cli) restart() *cobra.Command {
	return c.stopping("restart", "Stop containers and start them again", func(e *engine.Engine, name string) error {
		err := startOne(e, name)
		if err == nil {
			e.NoteRestart(name)
		}
		return err
	})
}

// stopping is a verb that stops containers, and then does one thing more to each.
func (c *cli) stopping(name, short string, then func(*engine.Engine, string) error) *cobra.Command {
	cmd := &cobra.Command{Use: name + " [OPTIONS] CONTAINER [CONTAINER...]", Short: short, Args: rangeArgs(1, -1)}
	read := stopFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		opt, err := read()
		if err != nil {
			return err
		}
		return c.perContainer(cmd, args, func(e *engine.Engine, name string) error {
			if err := e.Stop(name, opt); err != nil {
				return err
			}
			return then(e, name)
		})
	}
	return cmd
}

// kill is `varve kill`.
func (c *cli) kill() *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use:     "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short:   "Send a signal to the programs of containers",
		Example: "  varve kill -s HUP web",
		Args:    rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			sig, err := container.ParseSignal(cmp.Or(signal, "KILL"))
			if err != nil {
				return err
			}
			return c.perContainer(cmd, args, func(e *engine.Engine, name string) error { return e.Kill(name, sig) })
		},
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "a name or a number")
	return cmd
}

// wait is `varve wait`.
func (c *cli) wait() *cobra.Command {
	return &cobra.Command{
		Use:   "wait CONTAINER [CONTAINER...]",
		Short: "Wait until containers have ended, and print their exit codes",
		Args:  rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := c.open()
			if err != nil {
				return err
			}
			return each(cmd, args, func(name string) (string, error) {
				code, err := e.WaitFor(name)
				if err != nil {
					return "", err
				}
				return strconv.Itoa(code), nil
			})
		},
	}
}

// rename is `varve rename`.
func (c *cli) rename() *cobra.Command {
	return &cobra.Command{
		Use:   "rename CONTAINER NEW-NAME",
		Short: "Give a container another name",
		Args:  exactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := c.open()
			if err != nil {
				return err
			}
			return e.Rename(args[0], args[1])
		},
	}
}

// pause is `varve pause`.
func (c *cli) pause() *cobra.Command {
	return &cobra.Command{
		Use:   "pause CONTAINER [CONTAINER...]",
		Short: "Stop all processes of containers where they are",
		Args:  rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.perContainer(cmd, args, func(e *engine.Engine, name string) error {
				warning, err := e.Pause(name)
				if warning != nil {
					fmt.Fprintln(os.Stderr, "varve: warning:", warning)
				}
				return err
			})
		},
	}
}

// unpause is `varve unpause`.
func (c *cli) unpause() *cobra.Command {
	return &cobra.Command{
		Use:   "unpause CONTAINER [CONTAINER...]",
		Short: "Let the processes of paused containers go on",
		Args:  rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.perContainer(cmd, args, func(e *engine.Engine, name string) error { return e.Unpause(name) })
		},
	}
}
