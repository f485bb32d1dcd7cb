package engine

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/layerdb"
)

// CreateOptions are what `varve run` asks for. Image is required.
type CreateOptions struct {
	Image    string
	Args     []string // the command; empty for the image's own
	Name     string   // "" for one that is made up
	Env      []string // NAME=value; [AskedEnv] makes it of what flags say
	Workdir  string   // absolute; "" for the image's own
	Volumes  []string // SOURCE:TARGET[:ro|rw]
	Stdin    bool
	Terminal bool
	Remove   bool // when it ends
	Init     bool // a process 1 of ours, which starts the command
	Isolation
	Detached bool // stdin stays open when whoever is attached goes

	Entrypoint  *string  // nil for the image's own, "" for none
	Labels      []string // NAME or NAME=value, the later before the earlier; see [AskedLabels]
	StopSignal  string   // "" for the image's own, or SIGTERM
	StopTimeout *int     // seconds; nil for 10
	Restart     string   // no, on-failure[:n], always, unless-stopped; "" is no
	LogDriver   string   // json-file or none; "" is json-file
	LogOpts     []string // max-size=20m, max-file=5
	Health      HealthOptions
}

// checkName refuses a container name that docker refuses. A slash before it is how the
// API writes names, and no part of it.
func checkName(name string) error {
	const rule = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
	if name == "" || regexp.MustCompile("^/?"+rule+"+$").MatchString(name) {
		return nil
	}
	return fmt.Errorf("invalid container name (%s), only %s are allowed", name, rule)
}

// newSpec is what can be said of a container before its image is looked at.
func newSpec(opt CreateOptions) (s container.Spec, err error) {
	if err := errors.Join(checkName(opt.Name), opt.Health.Check()); err != nil {
		return container.Spec{}, err
	}
	s = container.Spec{
		ID: container.NewID(), Terminal: opt.Terminal, Stdin: opt.Stdin, StdinOnce: opt.Stdin && !opt.Detached, Remove: opt.Remove,
		Init:        opt.Init,
		StopTimeout: opt.StopTimeout,
	}
	if s.Restart, err = parseRestart(opt.Restart); err != nil {
		return container.Spec{}, err
	}
	if opt.Remove && s.Restart.Name != "" {
		return container.Spec{}, errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	s.Detached = opt.Detached
	if opt.StopSignal != "" {
		if _, err := container.ParseSignal(opt.StopSignal); err != nil {
			return container.Spec{}, err
		}
	}
	if s.Log, err = parseLog(opt); err != nil {
		return container.Spec{}, err
	}
	if s.Sandbox, err = opt.sandbox(); err != nil {
		return container.Spec{}, err
	}
	if s.Mounts, err = parseVolumes(opt.Volumes); err != nil {
		return container.Spec{}, err
	}
	return s, checkTargets(s.AllMounts(), slices.Concat(s.Sandbox.Tmpfs, s.Sandbox.TmpfsMounts))
}

// parseRestart reads --restart.
func parseRestart(text string) (p container.RestartPolicy, err error) {
	name, count, has := strings.Cut(text, ":")
	switch name {
	case "", "no":
		if !has {
			return container.RestartPolicy{}, nil
		}
	case "always", "unless-stopped":
		if !has {
			return container.RestartPolicy{Name: name}, nil
		}
	case "on-failure":
		if !has {
			return container.RestartPolicy{Name: name}, nil
		}
		if count == "" {
			return container.RestartPolicy{Name: name}, nil
		}
		p.Max, err = strconv.Atoi(count)
		switch {
		case err != nil:
			return p, errors.New("invalid restart policy format: maximum retry count must be an integer")
		case p.Max < 0:
			return p, errors.New("maximum retry count cannot be negative")
		}
		return container.RestartPolicy{Name: name, Max: p.Max}, nil
	default:
		return p, fmt.Errorf("invalid restart policy '%s': use one of no, on-failure[:N], always or unless-stopped", name)
	}
	return p, fmt.Errorf("maximum retry count cannot be used with restart policy '%s'", name)
}

// What a log is kept to if nothing is said: docker's driver "local" has the same.
const (
	logSize  = 20 << 20
	logFiles = 5
)

// parseLog reads --log-driver and --log-opt. What is removed when it ends, and has a
// foreground that hears it, keeps no log unless one is asked for: nobody could read it
// afterwards, and its output is faster without.
func parseLog(opt CreateOptions) (container.LogOptions, error) {
	l := container.LogOptions{Driver: opt.LogDriver, MaxSize: logSize, MaxFiles: logFiles}
	if l.Driver == "" {
		l.Driver = container.LogJSON
		if opt.Remove && !opt.Detached {
			l.Driver = container.LogNone
		}
	}
	if l.Driver != container.LogJSON && l.Driver != container.LogNone {
		return l, fmt.Errorf("error looking up logging plugin %s: plugin %q not found: there are %s and %s", l.Driver, l.Driver, container.LogJSON, container.LogNone)
	}
	if opt.LogDriver == container.LogNone && len(opt.LogOpts) > 0 {
		return l, errors.New("invalid logging opts for driver none")
	}
	for _, text := range opt.LogOpts {
		name, value, _ := strings.Cut(text, "=")
		var err error
		switch name {
		case "max-size":
			l.MaxSize, err = units.RAMInBytes(value)
		case "max-file":
			if l.MaxFiles, err = strconv.Atoi(value); err == nil && l.MaxFiles < 1 {
				err = errors.New("max-file cannot be less than 1")
			}
		default:
			return l, fmt.Errorf("unknown log opt '%s' for json-file log driver: there are max-size and max-file", name)
		}
		if err != nil {
			return l, fmt.Errorf("failed to initialize logging driver: %w", err)
		}
	}
	return l, nil
}

// steps are called while a container is created: made when its directory is in its
// place, recorded when its record is durable; it fails, if it does, before.
type steps struct{ made, recorded func() }

// create records a container and its directory in one change, in this state. It returns
// a little after the last step, when the database is closed.
func (e *Engine) create(spec container.Spec, opt CreateOptions, state container.State, on steps) error {
	err := e.createBy(e.updateFew, mostArgs, spec, opt, state, on)
	if errors.Is(err, errManyArgs) {
		return e.createBy(e.update, math.MaxInt, spec, opt, state, on)
	}
	return err
}

// mostArgs is how many bytes of arguments a container that is recorded by updateFew has
// at most: JSON may make six of one.
const mostArgs = 4 << 10

var errManyArgs = errors.New("many arguments")

func (e *Engine) createBy(
	update func(func(*layerdb.Tx) error) error, args int, spec container.Spec, opt CreateOptions, state container.State, on steps,
) error {
	stage, err := e.stageContainer()
	if err != nil {
		return err
	}
	err = update(func(tx *layerdb.Tx) error {
		image, err := findImage(tx, opt.Image)
		if err != nil {
			return err
		}
		if err := e.findDonors(tx, &spec.Sandbox); err != nil {
			return err
		}
		if err := errors.Join(fillSpec(&spec, tx, image, opt), e.allotIDs(tx, &spec)); err != nil {
			return err
		}
		if len(strings.Join(spec.Args, " ")) > args {
			return errManyArgs
		}
		if err := errors.Join(container.WriteState(stage.Path(), state), writeSpec(stage, &spec)); err != nil {
			return err
		}
		if err := tx.Publish(stage, e.store.ContainerDir(spec.ID)); err != nil {
			return err
		}
		name, err := putContainer(tx, opt, image, &spec)
		tx.AfterCommit(func() {
			e.NoteContainer(spec.ID, "create", noteLabels(spec.Config.Labels, opt.Image, name))
			on.recorded()
		})
		if err == nil {
			on.made()
		}
		return err
	})
	return errors.Join(err, stage.Discard())
}

// stageContainer makes the directories of a container.
func (e *Engine) stageContainer() (*layout.Stage, error) {
	stage, err := e.store.Stage("container")
	if err != nil {
		return nil, err
	}
	for name, mode := range map[string]os.FileMode{container.UpperName: 0o755, container.WorkName: 0o700, container.ViewName: 0o700} {
		dir := filepath.Join(stage.Path(), name)
		// Chmod, since the upper is the root directory of the container and the
		// umask of the caller is none of its business.
		if err = errors.Join(os.Mkdir(dir, mode), os.Chmod(dir, mode)); err != nil {
			return nil, errors.Join(fmt.Errorf("make a container: %w", err), stage.Discard())
		}
	}
	return stage, nil
}

func writeSpec(stage *layout.Stage, spec *container.Spec) error {
	raw, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("write the container's configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(stage.Path(), container.ConfigName), raw, 0o600); err != nil {
		return fmt.Errorf("write the container's configuration: %w", err)
	}
	if spec.Remove {
		stage.Volatile()
		return nil
	}
	return stage.SyncFiles(container.ConfigName, container.UpperName, container.WorkName, container.ViewName)
}

// putContainer records the container under its name, or one that is free, which it
// returns.
func putContainer(tx *layerdb.Tx, opt CreateOptions, image layerdb.Image, spec *container.Spec) (string, error) {
	c := layerdb.Container{
		ID: spec.ID, Name: strings.TrimPrefix(opt.Name, "/"), ImageID: image.ID, ImageName: opt.Image, Top: image.Top,
		Created: time.Now().UTC(), Command: spec.Args,
	}
	if c.Name != "" {
		return c.Name, tx.PutContainer(c)
	}
	for {
		c.Name = inventName()
		if err := tx.PutContainer(c); !errors.Is(err, layerdb.ErrNameInUse) {
			return c.Name, err
		}
	}
}

// fill works out what is run, from the image and from what was asked.
func fillSpec(s *container.Spec, tx *layerdb.Tx, image layerdb.Image, opt CreateOptions) error {
	chain, err := tx.Chain(image.Top)
	if err != nil {
		return err
	}
	config, err := parseConfig(image)
	if err != nil {
		return err
	}
	s.Layers = layerNames(chain)
	if len(s.Layers) == 0 {
		return fmt.Errorf("image %s has no files", opt.Image)
	}
	s.Config = config.Config
	if opt.User != "" {
		s.Config.User = opt.User
	}
	if opt.Entrypoint != nil { // the image's arguments are for the image's program
		s.Config.Entrypoint, s.Config.Cmd = nil, nil
		if *opt.Entrypoint != "" {
			s.Config.Entrypoint = []string{*opt.Entrypoint}
		}
	}
	if opt.StopSignal != "" {
		s.Config.StopSignal = opt.StopSignal
	}
	if len(opt.Args) > 0 {
		s.Config.Cmd = opt.Args
	}
	s.Config.Healthcheck = opt.Health.over(s.Config.Healthcheck)
	s.Args = slices.Concat(s.Config.Entrypoint, s.Config.Cmd)
	if len(s.Args) == 0 {
		return errors.New("no command specified: the image has none of its own, so name one after it")
	}
	s.Hostname = cmp.Or(s.Sandbox.WantedHostname(), s.ID[:12])
	if err := fillLabels(s, opt); err != nil {
		return err
	}
	return fillProcess(s, opt)
}

func fillProcess(s *container.Spec, opt CreateOptions) error {
	if opt.Workdir != "" {
		s.Config.WorkingDir = opt.Workdir
	}
	s.Cwd = s.Config.WorkingDir
	if s.Cwd == "" {
		s.Cwd = "/"
	}
	if !filepath.IsAbs(s.Cwd) {
		return fmt.Errorf("the working directory '%s' is invalid, it needs to be an absolute path", s.Cwd)
	}
	s.Config.Env = container.MergeEnv(s.Config.Env, opt.Env)
	s.Env = container.MergeEnv([]string{defaultPath, "HOSTNAME=" + s.Hostname}, s.Config.Env, []string{"HOME=" + home(s.Config.Env)})
	if opt.Terminal {
		s.Env = container.MergeEnv([]string{"TERM=xterm"}, s.Env)
	}
	return nil
}

// defaultPath is docker's PATH of an image that sets none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// home is where the programs of root live, unless the image says otherwise.
func home(env []string) string {
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "HOME="); ok {
			return value
		}
	}
	return "/root"
}

// fillLabels adds the labels that were asked for to the image's.
func fillLabels(s *container.Spec, opt CreateOptions) error {
	labels := maps.Clone(s.Config.Labels)
	for _, text := range opt.Labels {
		if err := CheckLabel(text); err != nil {
			return err
		}
		if labels == nil {
			labels = map[string]string{}
		}
		name, value, _ := strings.Cut(text, "=")
		labels[name] = value
	}
	s.Config.Labels = labels
	return nil
}

// layerNames are the directories of a chain as a Spec keeps them.
func layerNames(chain []layerdb.Layer) []string {
	var names []string
	for _, l := range chain {
		switch {
		case l.Host:
			names = append(names, container.HostLayer)
		case !l.Empty:
			names = append(names, l.DiffID.String())
		}
	}
	return names
}
