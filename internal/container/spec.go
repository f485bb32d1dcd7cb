package container

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/runner"
	"github.com/varvefs/varve/unionfs"
)

// The names in a container's directory.
const (
	UpperName  = "upper"
	WorkName   = "work"
	ViewName   = "view" // the mount point, seen in the supervisor's namespace only
	ConfigName = "config.json"
	StateName  = "state.json"
)

// HostLayer stands for this machine's own files in Spec.Layers.
const HostLayer = "host"

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
	LogJSON = "json-file"
	LogNone = "none"
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

// Again tells whether a program that ended with code, and was started again some
// times already, is to be.
func (p RestartPolicy) Again(code, times int) bool {
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

// ReadSpec reads the config.json of the container id.
func (p Place) ReadSpec(id string) (Spec, error) {
	var s Spec
	raw, err := os.ReadFile(filepath.Join(p.ContainerDir(id), ConfigName))
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read the container's configuration: %w", err)
	}
	return s, nil
}

// Lower is the directory of one of Spec.Layers.
func (p Place) Lower(name string) (unionfs.Lower, error) {
	if name == HostLayer {
		return p.HostLower(), nil
	}
	dir, err := p.DiffDir(name)
	return unionfs.Lower{Path: dir}, err
}

// Network is docker's name of the network.
func (s *Spec) Network() string {
	if s.Sandbox.NoNetwork {
		return "none"
	}
	if s.Sandbox.Network != "" {
		return s.Sandbox.Network
	}
	return "host"
}

// AllMounts are the volumes of -v and of --mount.
func (s *Spec) AllMounts() []runner.Mount { return slices.Concat(s.Mounts, s.Sandbox.Mounts) }

// NewID returns 64 random hex digits.
func NewID() string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails, says crypto/rand
	return hex.EncodeToString(raw[:])
}

// MergeEnv joins lists of NAME=value; a later value takes the place of an
// earlier one of the same name.
func MergeEnv(lists ...[]string) []string {
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
