package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/engine"
)

// transfer is what pull and push have in common.
type transfer struct {
	all, quiet, silent, verify bool
}

func (t *transfer) flags(cmd *cobra.Command, what string) {
	f := cmd.Flags()
	f.BoolVarP(&t.all, "all-tags", "a", false, what+" all tags of the repository")
	f.BoolVarP(&t.quiet, "quiet", "q", false, "show no progress")
	f.BoolVar(&t.silent, "silent", false, "do not print the reference")
	_ = f.MarkHidden("silent") // the flag is there
	f.BoolVar(&t.verify, "tls-verify", true, "want a valid certificate; without, plain HTTP will do, too")
}

// run does the work with a context that Ctrl-C ends, so that nothing half-done stays
// behind, shows how far it is, and prints the references to out.
func (t *transfer) run(out io.Writer, work func(context.Context, engine.Progress) ([]string, error)) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	bars := newBars(os.Stderr, t.quiet)
	refs, err := work(ctx, bars.step)
	bars.finish()
	if len(refs) > 0 && !t.silent {
		fmt.Fprintln(out, strings.Join(refs, "\n"))
	}
	return err
}

// pull is `varve pull`.
func (c *cli) pull() *cobra.Command {
	var opt engine.PullOptions
	var t transfer
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short: "Fetch an image from a registry",
		Long: "Fetch an image from a registry. Its layers come side by side, and those that are here already are not\n" +
			"fetched. Credentials are docker's: ~/.docker/config.json and the helpers that it names, or $DOCKER_CONFIG.",
		Example: "  varve pull debian:12\n  varve pull --platform linux/arm64 debian:12\n  varve pull 127.0.0.1:5000/mine:1",
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.inside(func(e *engine.Engine) error {
				return t.run(cmd.OutOrStdout(), func(ctx context.Context, progress engine.Progress) ([]string, error) {
					opt.AllTags, opt.Insecure, opt.Progress = t.all, !t.verify, progress
					return e.Pull(ctx, args[0], opt)
				})
			})
		},
	}
	t.flags(cmd, "fetch")
	cmd.Flags().StringVar(&opt.Platform, "platform", "", "os/arch[/variant] of the image (default: this machine's)")
	return cmd
}

// push is `varve push`.
func (c *cli) push() *cobra.Command {
	var t transfer
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] NAME[:TAG]",
		Short: "Bring an image to a registry",
		Long: "Bring an image to the registry that its name begins with. Layers that the registry has are not sent.\n" +
			"Credentials are docker's: ~/.docker/config.json and the helpers that it names, or $DOCKER_CONFIG.",
		Example: "  varve push 127.0.0.1:5000/mine:1",
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.inside(func(e *engine.Engine) error {
				return t.run(cmd.OutOrStdout(), func(ctx context.Context, progress engine.Progress) ([]string, error) {
					return e.Push(ctx, args[0], engine.PushOptions{AllTags: t.all, Insecure: !t.verify, Progress: progress})
				})
			})
		},
	}
	t.flags(cmd, "push")
	return cmd
}
