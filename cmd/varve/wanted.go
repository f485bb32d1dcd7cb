package main

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// wanted is how run comes by its image.
type wanted struct {
	pull, platform string
	quiet          bool
}

func (w *wanted) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.pull, "pull", "missing", "fetch the image: missing, always or never")
	cmd.Flags().BoolVarP(&w.quiet, "quiet", "q", false, "say nothing while the image is fetched")
	cmd.Flags().StringVar(&w.platform, "platform", "", "os/arch[/variant] of an image that is fetched (default: this machine's)")
}

func (w *wanted) check() error {
	switch w.pull {
	case "missing", "always", "never":
		return nil
	}
	return fmt.Errorf(`invalid pull option: '%s': must be one of "always", "missing" or "never"`, w.pull)
}

// withImage calls fn, which needs the image. It fetches the image first if that is
// wanted always, and calls fn again after it was fetched if it was missing: to look
// before would cost every run that has its image.
func (c *cli) withImage(e *engine.Engine, image string, want wanted, fn func() error) error {
	if want.pull == "always" {
		if err := c.fetch(e, image, want); err != nil {
			return err
		}
		return fn()
	}
	err := fn()
	if !engine.IsNoSuchImage(err) {
		return err
	}
	full, bad := engine.FullName(image)
	if bad != nil {
		return bad
	}
	if want.pull == "never" {
		return err
	}
	if !want.quiet {
		fmt.Fprintf(os.Stderr, "Unable to find image '%s' locally\n", full)
	}
	if pullErr := c.fetch(e, image, want); pullErr != nil {
		return fmt.Errorf("%w\n%w", err, pullErr)
	}
	return fn()
}

// fetch runs `varve pull` without its output, where it may touch files of layers.
func (c *cli) fetch(e *engine.Engine, image string, want wanted) error {
	entered, code, err := engine.Inside(e.Root(), []string{"pull", "--silent", "--quiet=" + strconv.FormatBool(want.quiet), "--platform", want.platform, "--", image})
	switch {
	case err != nil:
		return err
	case entered && code != 0:
		return fmt.Errorf("the image %s could not be fetched", image) // pull has said why
	case entered:
		return nil
	}
	t := transfer{silent: true, quiet: want.quiet}
	return t.run(nil, func(ctx context.Context, progress engine.Progress) ([]string, error) {
		return e.Pull(ctx, image, engine.PullOptions{Platform: want.platform, Progress: progress})
	})
}
