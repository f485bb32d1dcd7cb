package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// creation is what the flags say that run and create share.
type creation struct {
	opt        engine.CreateOptions
	want       wanted
	cidfile    string
	entrypoint string
	timeout    int

	envFiles, labelFiles []string
}

func (a *creation) flags(cmd *cobra.Command) {
	f, opt := cmd.Flags(), &a.opt
	f.SetInterspersed(false)
	f.BoolVarP(&opt.Stdin, "interactive", "i", false, "give the command this stdin")
	f.BoolVarP(&opt.Terminal, "tty", "t", false, "give the command a terminal")
	f.BoolVar(&opt.Remove, "rm", false, "remove the container when it ends")
	f.BoolVar(&opt.Init, "init", false, "have a process 1 that hands signals on to the command, and waits for orphans")
	f.StringVar(&opt.Name, "name", "", "name the container (default: one is made up)")
	f.VarP(checkedList{&opt.Env, engine.CheckEnv}, "env", "e", "set NAME=VALUE, or pass on NAME")
	f.StringArrayVar(&a.envFiles, "env-file", nil, "set what the lines of this file say")
	f.StringVarP(&opt.Workdir, "workdir", "w", "", "start in this directory (default: the image's)")
	f.StringArrayVarP(&opt.Volumes, "volume", "v", nil, "show a directory of the host inside, /DIR:/DIR[:ro]")
	f.StringVar(&a.cidfile, "cidfile", "", "write the ID of the container to this file, which must not be there")
	f.StringVar(&a.entrypoint, "entrypoint", "", "run this program in the place of the image's; the command is its arguments")
	f.VarP(checkedList{&opt.Labels, engine.CheckLabel}, "label", "l", "give it the label NAME=VALUE")
	f.StringArrayVar(&a.labelFiles, "label-file", nil, "give it the labels of the lines of this file")
	f.StringVar(&opt.StopSignal, "stop-signal", "", "the signal that stops it (default: the image's, or SIGTERM)")
	f.IntVar(&a.timeout, "stop-timeout", 10, "seconds that it has to stop before it is killed; -1 is for ever")
	f.StringVar(&opt.Restart, "restart", "no", "start it again when it ends: no, on-failure[:N], always, unless-stopped")
	f.StringVar(&opt.LogDriver, "log-driver", "", "its log: json-file or none (default: json-file, none with --rm in the foreground)")
	f.StringArrayVar(&opt.LogOpts, "log-opt", nil, "of its log: max-size=20m, max-file=5")
	healthFlags(cmd, &opt.Health)
	a.want.flags(cmd)
	isolationFlags(cmd, &a.opt.Isolation)
	namingFlags(cmd, &a.opt.Naming)
	sharingFlags(cmd, &a.opt.Isolation)
}

// read makes the options of flags and arguments.
func (a *creation) read(cmd *cobra.Command, args []string) error {
	a.opt.Image, a.opt.Args = args[0], args[1:]
	if cmd.Flags().Changed("entrypoint") {
		a.opt.Entrypoint = &a.entrypoint
	}
	if cmd.Flags().Changed("stop-timeout") {
		a.opt.StopTimeout = &a.timeout
	}
	if err := errors.Join(a.want.check(), a.opt.Health.Check(), a.conflicts(), a.readFiles()); err != nil {
		return usage(cmd, err)
	}
	return nil
}

// conflicts tells of flags that do not go together.
func (a *creation) conflicts() error {
	if a.opt.Remove && a.opt.Restart != "" && a.opt.Restart != "no" {
		return errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	return nil
}

// readFiles adds what the files say that flags name.
func (a *creation) readFiles() (err error) {
	if a.opt.Env, err = engine.AskedEnv(a.envFiles, a.opt.Env); err != nil {
		return err
	}
	a.opt.Labels, err = engine.AskedLabels(a.labelFiles, a.opt.Labels)
	return err
}

// cidFile is where the ID of a container is written to. Docker's rule is that it must
// not be there before, so that no old ID is taken for the new one.
type cidFile struct{ file *os.File }

func openCID(name string) (cidFile, error) {
	if name == "" {
		return cidFile{}, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return cidFile{}, fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", name)
	}
	if err != nil {
		return cidFile{}, fmt.Errorf("failed to create the container ID file: %w", err)
	}
	return cidFile{f}, nil
}

// finish writes the ID, or removes the file if there is none.
func (c cidFile) finish(id string) error {
	if c.file == nil {
		return nil
	}
	if id == "" {
		return errors.Join(c.file.Close(), os.Remove(c.file.Name()))
	}
	_, err := c.file.WriteString(id)
	return errors.Join(err, c.file.Close())
}

// create is `varve create`.
func (c *cli) create() *cobra.Command {
	var a creation
	cmd := &cobra.Command{
		Use:     "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short:   "Create a container from an image, to be started later",
		Example: "  varve create --name work mine:1 sh -c 'date > /now'\n  varve start work",
		Args:    rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.read(cmd, args); err != nil {
				return err
			}
			id, err := c.createContainer(&a)
			if err != nil {
				return exitError{1, err}
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), id)
			return err
		},
	}
	a.flags(cmd)
	return cmd
}

func (c *cli) createContainer(a *creation) (id string, err error) {
	e, err := c.open()
	if err != nil {
		return "", err
	}
	cid, err := openCID(a.cidfile)
	if err != nil {
		return "", err
	}
	err = c.withImage(e, a.opt.Image, a.want, func() (err error) {
		id, err = e.Create(a.opt)
		return err
	})
	if err != nil {
		id = ""
	}
	return id, errors.Join(err, cid.finish(id))
}
