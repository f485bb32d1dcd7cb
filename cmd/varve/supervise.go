package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/engine"
)

// supervise is the hidden verb of a container's supervisor.
func (c *cli) supervise() *cobra.Command {
	return &cobra.Command{
		Use: "supervise CONTAINER", Hidden: true, Args: exactArgs(1),
		Short: "Be the supervisor of a container (varve run does it)",
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := c.open()
			if err != nil {
				return exitError{codeUsage, err}
			}
			code, err := container.Supervise(e.Root(), args[0], nil)
			if err != nil {
				return exitError{code, err}
			}
			c.code = code
			return nil
		},
	}
}

// opened is a hidden verb that needs the store and no more.
func (c *cli) opened(fn func(*engine.Engine, []string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		e, err := c.open()
		if err != nil {
			return err
		}
		return fn(e, args)
	}
}

// sweep is the hidden verb that removes leftovers, in a user namespace.
func (c *cli) sweep() *cobra.Command {
	return &cobra.Command{
		Use: "sweep", Hidden: true, Args: exactArgs(0),
		Short: "Remove what interrupted commands left in the store",
		RunE:  c.opened(func(e *engine.Engine, _ []string) error { return e.Sweep() }),
	}
}

// index is the hidden verb that makes the index of a chain.
func (c *cli) index() *cobra.Command {
	return &cobra.Command{
		Use: "index DIFF-ID...", Hidden: true, Args: rangeArgs(1, -1),
		Short: "Make the index of a chain of layers, top first (varve run has it done)",
		RunE: func(_ *cobra.Command, args []string) error {
			return c.inside(func(e *engine.Engine) error { return e.Index(args) })
		},
	}
}

// courier is the hidden verb that copies files out of a container and into it.
func (c *cli) courier() *cobra.Command {
	return &cobra.Command{
		Use: "courier CONTAINER MAPPED", Hidden: true, Args: exactArgs(2),
		Short: "Copy files of the container whose view is mounted here (varve cp has it done)",
		RunE:  c.opened(func(e *engine.Engine, args []string) error { return e.Courier(args[0], args[1] == "true") }),
	}
}

// lend is the hidden verb that mounts the view of a container that does not run.
func (c *cli) lend() *cobra.Command {
	return &cobra.Command{
		Use: "lend CONTAINER", Hidden: true, Args: exactArgs(1),
		Short: "Mount the view of a container for a courier (varve cp has it done)",
		RunE:  c.opened(func(e *engine.Engine, args []string) error { return container.Lend(e.Root(), args[0]) }),
	}
}

// flush is the hidden verb that a supervisor has a process of its own do, since it must
// not wait for the view that it serves.
func (c *cli) flush() *cobra.Command {
	return &cobra.Command{
		Use: "flush VIEW FILE...", Hidden: true, Args: rangeArgs(2, -1),
		Short: "Have the kernel write what programs have changed in mapped files (varve commit has it done)",
		RunE:  func(_ *cobra.Command, args []string) error { return container.Flush(args[0], args[1:]) },
	}
}

// replicate is the hidden verb that copies the files of a container that can have no view.
func (c *cli) replicate() *cobra.Command {
	return &cobra.Command{
		Use: "replicate CONTAINER WHY", Hidden: true, Args: exactArgs(2),
		Short: "Copy the files that a container is to stand on (its supervisor has it done)",
		RunE: c.opened(func(e *engine.Engine, args []string) error {
			return e.Replicate(args[0], args[1], func(text string) { fmt.Println(text) })
		}),
	}
}

// settle is the hidden verb that makes the upper of such a container.
func (c *cli) settle() *cobra.Command {
	return &cobra.Command{
		Use: "settle CONTAINER", Hidden: true, Args: exactArgs(1),
		Short: "Make the upper of what a container has changed in its copy (its supervisor has it done)",
		RunE:  c.opened(func(e *engine.Engine, args []string) error { return e.Settle(args[0]) }),
	}
}
