package engine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

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
	Layers   []string       `json:"layers"` // diff IDs, top first; "host" for this machine
	Sandbox  Sandbox        `json:"sandbox,omitzero"`
	// Config is what an image made of the container starts with.
	Config Config `json:"config"`
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
