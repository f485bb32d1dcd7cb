package engine

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/varvefs/varve/layerdb"
)

// CreateOptions are what `varve run` asks for. Image is required.
type CreateOptions struct {
	Image    string
	Args     []string // the command; empty for the image's own
	Name     string   // "" for one that is made up
	Env      []string // NAME=value, or NAME for the caller's own value
	Workdir  string   // absolute; "" for the image's own
	Volumes  []string // SOURCE:TARGET[:ro|rw]
	Stdin    bool
	Terminal bool
	Remove   bool // when it ends
	Isolation
}

// newID returns 64 random hex digits.
func newID() string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails, says crypto/rand
	return hex.EncodeToString(raw[:])
}

// checkName refuses a container name that docker refuses.
func checkName(name string) error {
	const rule = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
	if name == "" || regexp.MustCompile("^"+rule+"+$").MatchString(name) {
		return nil
	}
	return fmt.Errorf("invalid container name (%s), only %s are allowed", name, rule)
}

// newSpec is what can be said of a container before its image is looked at.
func newSpec(opt CreateOptions) (Spec, error) {
	if err := checkName(opt.Name); err != nil {
		return Spec{}, err
	}
	box, err := opt.sandbox()
	if err != nil {
		return Spec{}, err
	}
	mounts, err := parseVolumes(opt.Volumes)
	return Spec{ID: newID(), Mounts: mounts, Terminal: opt.Terminal, Stdin: opt.Stdin, Remove: opt.Remove, Sandbox: box}, err
}

// create records a container and its directory in one change. ready is called as
// soon as the record is durable; create returns a little later, when the database
// is closed.
func (e *Engine) create(spec Spec, opt CreateOptions, ready func()) error {
	stage, err := e.stageContainer()
	if err != nil {
		return err
	}
	err = e.update(func(tx *layerdb.Tx) error {
		image, err := findImage(tx, opt.Image)
		if err != nil {
			return err
		}
		if err := spec.fill(tx, image, opt); err != nil {
			return err
		}
		if err := writeSpec(stage, &spec); err != nil {
			return err
		}
		if err := tx.Publish(stage, e.store.ContainerDir(spec.ID)); err != nil {
			return err
		}
		tx.AfterCommit(ready)
		return putContainer(tx, opt, image, &spec)
	})
	return errors.Join(err, stage.Discard())
}

// stageContainer makes the directories of a container.
func (e *Engine) stageContainer() (*layerdb.Stage, error) {
	stage, err := e.store.Stage("container")
	if err != nil {
		return nil, err
	}
	for name, mode := range map[string]os.FileMode{upperName: 0o755, workName: 0o700, viewName: 0o700} {
		dir := filepath.Join(stage.Path(), name)
		// Chmod, since the upper is the root directory of the container and the
		// umask of the caller is none of its business.
		if err = errors.Join(os.Mkdir(dir, mode), os.Chmod(dir, mode)); err != nil {
			return nil, errors.Join(fmt.Errorf("make a container: %w", err), stage.Discard())
		}
	}
	return stage, nil
}

func writeSpec(stage *layerdb.Stage, spec *Spec) error {
	raw, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("write the container's configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(stage.Path(), configName), raw, 0o600); err != nil {
		return fmt.Errorf("write the container's configuration: %w", err)
	}
	if spec.Remove {
		stage.Volatile()
		return nil
	}
	return stage.SyncFiles(configName, upperName, workName, viewName)
}

// putContainer records the container under its name, or one that is free.
func putContainer(tx *layerdb.Tx, opt CreateOptions, image layerdb.Image, spec *Spec) error {
	c := layerdb.Container{
		ID: spec.ID, Name: opt.Name, ImageID: image.ID, ImageName: opt.Image, Top: image.Top,
		Created: time.Now().UTC(), Command: spec.Args,
	}
	if c.Name != "" {
		return tx.PutContainer(c)
	}
	for {
		c.Name = inventName()
		if err := tx.PutContainer(c); !errors.Is(err, layerdb.ErrNameInUse) {
			return err
		}
	}
}

// fill works out what is run, from the image and from what was asked.
func (s *Spec) fill(tx *layerdb.Tx, image layerdb.Image, opt CreateOptions) error {
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
	if len(opt.Args) > 0 {
		s.Config.Cmd = opt.Args
	}
	s.Args = slices.Concat(s.Config.Entrypoint, s.Config.Cmd)
	if len(s.Args) == 0 {
		return errors.New("no command specified: the image has none of its own, so name one after it")
	}
	s.Hostname = cmp.Or(s.Sandbox.Hostname, s.ID[:12])
	return s.fillProcess(opt)
}

func (s *Spec) fillProcess(opt CreateOptions) error {
	if opt.Workdir != "" {
		s.Config.WorkingDir = opt.Workdir
	}
	s.Cwd = s.Config.WorkingDir
	if s.Cwd == "" {
		s.Cwd = "/"
	}
	if !filepath.IsAbs(s.Cwd) {
		return fmt.Errorf("the working directory %q is invalid, it needs to be an absolute path", s.Cwd)
	}
	asked, err := callersEnv(opt.Env)
	if err != nil {
		return err
	}
	s.Config.Env = mergeEnv(s.Config.Env, asked)
	s.Env = mergeEnv([]string{defaultPath, "HOSTNAME=" + s.Hostname}, s.Config.Env, []string{"HOME=" + home(s.Config.Env)})
	if opt.Terminal {
		s.Env = mergeEnv([]string{"TERM=xterm"}, s.Env)
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

// callersEnv reads -e: a NAME alone takes the caller's value, or is left out if
// the caller has none.
func callersEnv(asked []string) ([]string, error) {
	var env []string
	for _, e := range asked {
		name, _, has := strings.Cut(e, "=")
		if name == "" {
			return nil, fmt.Errorf("invalid environment variable: %q", e)
		}
		if !has {
			value, ok := os.LookupEnv(name)
			if !ok {
				continue
			}
			e = name + "=" + value
		}
		env = append(env, e)
	}
	return env, nil
}

// mergeEnv joins lists of NAME=value; a later value takes the place of an
// earlier one of the same name.
func mergeEnv(lists ...[]string) []string {
	var env []string
	place := map[string]int{}
	for _, e := range slices.Concat(lists...) {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := place[name]; ok {
			env[i] = e
			continue
		}
		place[name] = len(env)
		env = append(env, e)
	}
	return env
}
