package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
	"github.com/varvefs/varve/runner"
)

// version is set by the linker.
var version = "0.0.0-dev"

func main() {
	runner.Stage() // an init stage never comes back from here
	if f, ok := faceOf(os.Args[0]); ok {
		os.Exit(f.run(os.Args))
	}
	// A verb is over before a collection would pay; who lives on sets it back.
	// Measured: 5 of 60 ms of a run.
	debug.SetGCPercent(800)
	os.Exit(run(os.Args[1:]))
}

// run does what the command line says and returns the exit code: the one place
// where errors become a sentence and a number.
func run(args []string) int {
	c := &cli{args: args}
	root := c.command()
	root.SetArgs(args)
	err := root.Execute()
	var exit exitError
	switch {
	case err == nil:
		return c.code
	case errors.As(err, &exit):
		complain(exit.err)
		return exit.code
	}
	complain(err)
	return 1
}

// complain prints each line of an error as a sentence of its own.
func complain(err error) {
	if err == nil {
		return
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(os.Stderr, "varve:", strings.TrimRight(line, "\n"))
	}
}

// exitError is an error with its exit code; err may be nil.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string { return fmt.Sprint(e.err) }
func (e exitError) Unwrap() error { return e.err }

// codeUsage is the exit code of a wrong flag or argument, and of a run that
// varve could not do.
const codeUsage = 125

// usage is an error about the command line itself.
func usage(cmd *cobra.Command, err error) error {
	return exitError{codeUsage, fmt.Errorf("%w\nSee '%s --help'", err, cmd.CommandPath())}
}

// cli is one invocation.
type cli struct {
	args []string // without the program's name
	root string   // --root
	code int      // of a verb that succeeded
}

// command builds the tree of verbs.
func (c *cli) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "varve",
		Short:         "A union file system in user space, and containers on top of it",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(cmd, fmt.Errorf("%q is not a varve command", args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(usage)
	root.PersistentFlags().StringVar(&c.root, "root", "", "the store (default $VARVE_ROOT, or /var/lib/varve, or ~/.local/share/varve)")
	root.AddCommand(
		c.run(), c.create(), c.start(), c.stop(), c.restart(), c.kill(), c.pause(), c.unpause(), c.wait(), c.exec(), c.attach(),
		c.logs(), c.cp(), c.top(), c.stats(), c.events(), c.info(), c.rename(), c.ps(), c.rm(), c.images(), c.diff(), c.commit(), c.history(), c.inspect(), c.importVerb(), c.save(),
		c.load(), c.export(), c.pull(), c.push(), c.tag(), c.rmi(), c.mount(), c.check(), c.system(), c.doctor(), c.version(),
		c.supervise(), c.sweep(), c.index(), c.probe(), c.flush(), c.courier(), c.lend(),
	)
	return root
}

// open opens the store.
func (c *cli) open() (*engine.Engine, error) { return engine.Open(c.root) }

// inside opens the store where this process may touch the files of layers. If
// it may not, the whole command has been run again where it may, and fn is not
// called.
func (c *cli) inside(fn func(*engine.Engine) error) error {
	entered, code, err := engine.Inside(c.root, c.args)
	if entered || err != nil {
		c.code = code
		return err
	}
	e, err := c.open()
	if err != nil {
		return err
	}
	return fn(e)
}

// each calls fn for every argument, also after one has failed. It prints what fn
// returns, and complains about each failure at once.
func each(cmd *cobra.Command, args []string, fn func(string) (string, error)) error {
	failed := false
	for _, arg := range args {
		out, err := fn(arg)
		if out != "" {
			fmt.Fprintln(cmd.OutOrStdout(), strings.TrimRight(out, "\n"))
		}
		if err != nil {
			complain(err)
			failed = true
		}
	}
	if failed {
		return exitError{code: 1}
	}
	return nil
}

// exactArgs and its kin are usage errors in docker's words.
func exactArgs(n int) cobra.PositionalArgs { return rangeArgs(n, n) }

func rangeArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && (most < 0 || len(args) <= most) {
			return nil
		}
		how := "exactly"
		switch {
		case len(args) < least && least != most:
			how = "at least"
		case least != most:
			how, least = "at most", most
		}
		noun := "arguments"
		if least == 1 {
			noun = "argument"
		}
		return usage(cmd, fmt.Errorf("%q requires %s %d %s", cmd.CommandPath(), how, least, noun))
	}
}
