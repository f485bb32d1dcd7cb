package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// info is `varve info`.
func (c *cli) info() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "info [OPTIONS]",
		Short: "Show what there is here: containers, images, and the machine",
		Long: "Show what there is here: containers, images, and the machine.\n\n" +
			"'varve doctor' shows what the machine can do, and what mends what it can not.",
		Example: "  varve info\n  varve info --format '{{.ContainersRunning}}'",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := c.open()
			if err != nil {
				return err
			}
			i, err := e.Info()
			if err != nil {
				return err
			}
			i.ServerVersion = version
			return showInfo(cmd.OutOrStdout(), i, format)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "a Go template, or json")
	return cmd
}

func showInfo(w io.Writer, i engine.Info, format string) error {
	if format != "" {
		return showOne(w, i, format)
	}
	_, err := io.WriteString(w, infoLines(i))
	warnOfLimits(i)
	return err
}

// showOne shows v by a Go template, or as JSON.
func showOne(w io.Writer, v any, format string) error {
	if format == "json" || format == "{{json .}}" {
		return printJSON(w, []any{v})
	}
	t, err := parseTemplate(unescape(format))
	if err != nil {
		return err
	}
	if err := t.Execute(w, v); err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	_, err = fmt.Fprintln(w)
	return err
}

// infoLines are docker's lines, as far as they mean something here.
func infoLines(i engine.Info) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("Client:\n Version:    %s\n\nServer:", i.ServerVersion)
	line(" Containers: %d\n  Running: %d\n  Paused: %d\n  Stopped: %d", i.Containers, i.ContainersRunning, i.ContainersPaused, i.ContainersStopped)
	line(" Images: %d\n Server Version: %s\n Storage Driver: %s\n Logging Driver: %s", i.Images, i.ServerVersion, i.Driver, i.LoggingDriver)
	line(" Cgroup Driver: %s\n Cgroup Version: %s\n Security Options:", i.CgroupDriver, i.CgroupVersion)
	for _, option := range i.SecurityOptions {
		name, rest, has := strings.Cut(strings.TrimPrefix(option, "name="), ",")
		line("  %s", name)
		if has {
			key, value, _ := strings.Cut(rest, "=")
			line("   %s: %s", strings.ToUpper(key[:1])+key[1:], value)
		}
	}
	line(" Kernel Version: %s\n Operating System: %s\n OSType: %s\n Architecture: %s", i.KernelVersion, i.OperatingSystem, i.OSType, i.Architecture)
	line(" CPUs: %d\n Total Memory: %s\n Name: %s\n Docker Root Dir: %s", i.NCPU, units.BytesSize(float64(i.MemTotal)), i.Name, i.DockerRootDir)
	return b.String()
}

// warnOfLimits says which limits do not hold here, on stderr as docker does.
func warnOfLimits(i engine.Info) {
	for _, w := range []struct {
		has  bool
		what string
	}{{i.MemoryLimit, "memory limit"}, {i.CPUCfsQuota, "cpu cfs quota"}, {i.CPUSet, "cpuset"}, {i.PidsLimit, "pids limit"}} {
		if !w.has {
			fmt.Fprintf(os.Stderr, "WARNING: No %s support\n", w.what)
		}
	}
}
