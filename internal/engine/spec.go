package engine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/layerdb"
	"github.com/varvefs/varve/runner"
	"github.com/varvefs/varve/unionfs"
)

// The names in a container's directory.
const (
	upperName  = "upper"
	workName   = "work"
	viewName   = "view" // the mount point, seen in the supervisor's namespace only
	configName = "config.json"
	stateName  = "state.json"
)

// hostLayer stands for this machine's own files in Spec.Layers.
const hostLayer = "host"

// Spec is what was asked of a container: all its supervisor needs to know. It is
// written once, to config.json.
type Spec struct {
	ID       string         `json:"id"`
	Hostname string         `json:"hostname"`
	Args     []string       `json:"args"`
	Env      []string       `json:"env"`
	Cwd      string         `json:"cwd"`
	Mounts   []runner.Mount `json:"mounts,omitempty"`
	Terminal bool           `json:"terminal,omitempty"`
	Stdin    bool           `json:"stdin,omitempty"` // -i
	Remove   bool           `json:"remove,omitempty"`
	Init     bool           `json:"init,omitempty"`
	// StdinOnce: stdin is that of the first who is attached, and ends with it.
	StdinOnce bool `json:"stdin_once,omitempty"`
	// Detached: it was made to run in the background.
	Detached bool          `json:"detached,omitempty"`
	Log      LogOptions    `json:"log"`
	Restart  RestartPolicy `json:"restart"`
	// StopTimeout is how many seconds the program may take to stop; nil is docker's.
	StopTimeout *int     `json:"stop_timeout,omitempty"`
	Layers      []string `json:"layers"` // diff IDs, top first; "host" for this machine
	Sandbox     Sandbox  `json:"sandbox,omitzero"`
	// Config is what an image made of the container starts with.
	Config Config `json:"config"`
}

// Names of log drivers, docker's.
const (
	logJSON = "json-file"
	logNone = "none"
)

// LogOptions say what log a container has.
type LogOptions struct {
	Driver   string `json:"driver,omitempty"`    // json-file or none
	MaxSize  int64  `json:"max_size,omitempty"`  // bytes of one file; 0 is no limit
	MaxFiles int    `json:"max_files,omitempty"` // how many are kept
}

// A RestartPolicy says when a program that has ended is started again, by its
// supervisor. The zero value is never.
type RestartPolicy struct {
	Name string `json:"name,omitempty"` // no, on-failure, always or unless-stopped
	Max  int    `json:"max,omitempty"`  // of on-failure: how often; 0 is without end
}

// again tells whether a program that ended with code, and was started again some
// times already, is to be.
func (p RestartPolicy) again(code, times int) bool {
	switch p.Name {
	case "always", "unless-stopped":
		return true
	case "on-failure":
		return code != 0 && (p.Max == 0 || times < p.Max)
	}
	return false
}

// stopSignal is what asks the program to end.
func (s *Spec) stopSignal() unix.Signal {
	if sig, err := ParseSignal(s.Config.StopSignal); err == nil {
		return sig
	}
	return unix.SIGTERM
}

// stopTimeout is how long it may take to; negative is without end.
func (s *Spec) stopTimeout() time.Duration {
	const standard = 10 * time.Second // docker's
	if s.StopTimeout == nil {
		return standard
	}
	return time.Duration(*s.StopTimeout) * time.Second
}

// readSpec reads the config.json of the container id.
func (e *Engine) readSpec(id string) (Spec, error) {
	var s Spec
	raw, err := os.ReadFile(filepath.Join(e.store.ContainerDir(id), configName))
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read the container's configuration: %w", err)
	}
	return s, nil
}

// layerNames are the directories of a chain as a Spec keeps them.
func layerNames(chain []layerdb.Layer) []string {
	var names []string
	for _, l := range chain {
		switch {
		case l.Host:
			names = append(names, hostLayer)
		case !l.Empty:
			names = append(names, l.DiffID.String())
		}
	}
	return names
}

// lower is the directory of one of Spec.Layers.
func (e *Engine) lower(name string) (unionfs.Lower, error) {
	if name == hostLayer {
		return e.hostLower(), nil
	}
	dir, err := e.diffDir(name)
	return unionfs.Lower{Path: dir}, err
}

// network is docker's name of the network.
func (s *Spec) network() string {
	if s.Sandbox.NoNetwork {
		return "none"
	}
	if s.Sandbox.Network != "" {
		return s.Sandbox.Network
	}
	return "host"
}

// allMounts are the volumes of -v and of --mount.
func (s *Spec) allMounts() []runner.Mount { return slices.Concat(s.Mounts, s.Sandbox.Mounts) }
