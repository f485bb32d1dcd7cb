package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// mount is `varve mount`.
func (c *cli) mount() *cobra.Command {
	var options []string
	var foreground bool
	cmd := &cobra.Command{
		Use:   "mount -o lowerdir=A[:B...][,upperdir=U,workdir=W] [-f] DIRECTORY",
		Short: "Mount a union of directories",
		Long: "Mount the union of the lower directories, the first of them on top, and of an upper that takes the changes.\n" +
			"Without an upper the view is read-only. It stays until 'umount DIRECTORY', or 'fusermount3 -u DIRECTORY'.\n" +
			"A colon or a comma in a path is written with a backslash before it.",
		Example: "  varve mount -o lowerdir=/usr,upperdir=up,workdir=work view",
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt, err := parseMountOptions(options)
			if err != nil {
				return usage(cmd, err)
			}
			if !foreground {
				err := engine.MountInBackground(args[0], c.args)
				if errors.Is(err, engine.ErrTold) {
					return exitError{code: 1}
				}
				return err
			}
			return engine.Mount(args[0], opt)
		},
	}
	cmd.Flags().StringArrayVarP(&options, "options", "o", nil, "lowerdir=, upperdir=, workdir=, separated by commas")
	cmd.Flags().BoolVarP(&foreground, "foreground", "f", false, "stay in the foreground until it is unmounted")
	return cmd
}

// parseMountOptions reads the -o options in the form of overlayfs.
func parseMountOptions(list []string) (engine.MountOptions, error) {
	var opt engine.MountOptions
	for _, text := range list {
		for _, one := range split(text, ',') {
			key, value, _ := strings.Cut(one, "=")
			switch key {
			case "lowerdir":
				opt.Lowers = nil
				for _, dir := range split(value, ':') {
					opt.Lowers = append(opt.Lowers, plain(dir))
				}
			case "upperdir":
				opt.Upper = plain(value)
			case "workdir":
				opt.Work = plain(value)
			case "ro":
				opt.ReadOnly = true
			case "", "rw":
			default:
				return opt, fmt.Errorf("unknown mount option %q", one)
			}
		}
	}
	if len(opt.Lowers) == 0 {
		return opt, errors.New("a union needs at least one lower directory: -o lowerdir=DIRECTORY")
	}
	return opt, nil
}

// split cuts text at each sep that no backslash stands before.
func split(text string, sep byte) []string {
	var parts []string
	start := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case sep:
			parts = append(parts, text[start:i])
			start = i + 1
		}
	}
	return append(parts, text[start:])
}

// plain takes the backslashes away and makes the path absolute, since the
// working directory will be left.
func plain(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '\\' && i+1 < len(path) {
			i++
		}
		b.WriteByte(path[i])
	}
	if dir, err := os.Getwd(); err == nil && b.Len() > 0 && !strings.HasPrefix(b.String(), "/") {
		return dir + "/" + b.String()
	}
	return b.String()
}
