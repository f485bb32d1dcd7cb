package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
	_ "github.com/varvefs/varve/internal/hugeheap"
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
	verbs := c.verbs()
	if verb := verbs[verbOf(c.args)]; verb != nil {
		// The others would take a millisecond, which is much of an exec.
		root.CompletionOptions.DisableDefaultCmd = true
		root.AddCommand(verb())
		return root
	}
	for _, verb := range verbs {
		root.AddCommand(verb())
	}
	return root
}

// verbs are the commands by name.
func (c *cli) verbs() map[string]func() *cobra.Command {
	return map[string]func() *cobra.Command{
		"run": c.run, "create": c.create, "start": c.start, "stop": c.stop, "restart": c.restart, "kill": c.kill,
		"pause": c.pause, "unpause": c.unpause, "wait": c.wait, "exec": c.exec, "attach": c.attach, "logs": c.logs,
		"cp": c.cp, "top": c.top, "stats": c.stats, "events": c.events, "info": c.info, "rename": c.rename, "ps": c.ps,
		"port": c.port, "rm": c.rm, "images": c.images, "diff": c.diff, "commit": c.commit, "history": c.history, "inspect": c.inspect,
		"import": c.importVerb, "save": c.save, "load": c.load, "export": c.export, "pull": c.pull, "push": c.push,
		"tag": c.tag, "rmi": c.rmi, "mount": c.mount, "check": c.check, "system": c.system, "doctor": c.doctor,
		"version": c.version,
		// hidden ones, which varve starts itself
		"supervise": c.supervise, "sweep": c.sweep, "index": c.index, "probe": c.probe, "flush": c.flush,
		"courier": c.courier, "lend": c.lend, "replicate": c.replicate, "settle": c.settle,
	}
}

// verbOf is the verb of a command line, behind --root; "" if there is none.
func verbOf(args []string) string {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		skip := 1
		if args[0] == "--root" {
			skip = min(2, len(args))
		}
		args = args[skip:]
	}
	if len(args) == 0 {
		return ""
	}
	return args[0]
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
