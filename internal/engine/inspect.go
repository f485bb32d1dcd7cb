package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/layerdb"
)

// ErrNoSuchObject: docker's words for what is neither a container nor an image.
//
//lint:ignore ST1005 docker's words
var ErrNoSuchObject = errors.New("No such object")

// InspectOptions are what `varve inspect` asks for. The zero value works.
type InspectOptions struct {
	Type string // "container" or "image"; "" for the first that has the name
	Size bool   // also the sizes of containers' files; this has to run [Inside]
}

// Check refuses a type that there is none of.
func (o InspectOptions) Check() error {
	switch o.Type {
	case "", "container", "image":
		return nil
	}
	return fmt.Errorf("unknown type: %q: there are container and image", o.Type)
}

// Inspect returns a *[ContainerInspect] or an *[ImageInspect].
func (e *Engine) Inspect(name string, opt InspectOptions) (any, error) {
	switch opt.Type {
	case "container":
		return e.inspectContainer(name, opt.Size)
	case "image":
		return e.inspectImage(name)
	}
	c, err := e.inspectContainer(name, opt.Size)
	if !errors.Is(err, layerdb.ErrNoSuchContainer) {
		return c, err
	}
	i, err := e.inspectImage(name)
	if errors.Is(err, layerdb.ErrNoSuchImage) {
		err = fmt.Errorf("%w: %s", ErrNoSuchObject, name)
	}
	return i, err
}

// ImageInspect is an image under docker's keys.
type ImageInspect struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Parent       string
	Comment      string
	Created      string
	Author       string
	Config       InspectConfig
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	Size         int64
	GraphDriver  InspectDriver
	RootFS       InspectRootFS
}

// InspectRootFS are the layers of an image, the lowest first.
type InspectRootFS struct {
	Type   string
	Layers []digest.Digest `json:",omitempty"`
}

// InspectDriver says where the files are.
type InspectDriver struct {
	Data map[string]string
	Name string
}

// InspectConfig is the configuration of an image or a container.
type InspectConfig struct {
	Hostname     string
	Domainname   string
	User         string
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Tty          bool
	OpenStdin    bool
	StdinOnce    bool
	Env          []string
	Cmd          []string
	Healthcheck  *container.Healthcheck `json:",omitempty"`
	Image        string
	Volumes      map[string]struct{}
	WorkingDir   string
	Entrypoint   []string
	OnBuild      []string
	Labels       map[string]string
	StopSignal   string   `json:",omitempty"`
	StopTimeout  *int     `json:",omitempty"`
	Shell        []string `json:",omitempty"`
}

func inspectConfig(c container.Config) InspectConfig {
	return InspectConfig{
		User: c.User, ExposedPorts: c.ExposedPorts, Env: c.Env, Cmd: c.Cmd, Healthcheck: c.Healthcheck, Volumes: c.Volumes,
		WorkingDir: c.WorkingDir, Entrypoint: c.Entrypoint, OnBuild: c.OnBuild, Labels: c.Labels, StopSignal: c.StopSignal, Shell: c.Shell,
	}
}

// driverName is what docker would call a storage driver.
const driverName = "varve"

func (e *Engine) inspectImage(name string) (*ImageInspect, error) {
	var image lookedImage
	var chain []layerdb.Layer
	var refs []string
	var digests map[string]string
	var parent string
	err := e.store.View(func(tx *layerdb.Tx) (err error) {
		if image, err = lookImage(tx, name); err != nil {
			return err
		}
		if image.host != nil {
			chain, refs = []layerdb.Layer{*image.host}, []string{hostRef}
			return nil
		}
		if chain, err = tx.Chain(image.Top); err != nil {
			return err
		}
		if refs, err = refsOf(tx, image.ID); err != nil {
			return err
		}
		if digests, err = tx.Digests(); err != nil {
			return err
		}
		parent, err = parentOf(tx, chain)
		return err
	})
	if err != nil {
		return nil, err
	}
	out, err := e.describeImage(image.Image, chain, refs, parent)
	if err == nil {
		out.RepoDigests = append(out.RepoDigests, digestsOf(digests, image.ID)...)
	}
	return out, err
}

// digestsOf are the names that an image has by digest, as people know them, sorted.
func digestsOf(all map[string]string, id string) []string {
	var list []string
	for name, image := range all {
		if repository, d, ok := strings.Cut(name, "@"); ok && image == id {
			list = append(list, familiar(repository, d))
		}
	}
	slices.Sort(list)
	return list
}

// refsOf are the names of an image, sorted.
func refsOf(tx *layerdb.Tx, id string) ([]string, error) {
	tags, err := tx.Tags()
	refs := []string{}
	for ref, image := range tags {
		if image == id {
			refs = append(refs, ref)
		}
	}
	slices.Sort(refs)
	return refs, err
}

// parentOf is the next image down a chain, "" if there is none.
func parentOf(tx *layerdb.Tx, chain []layerdb.Layer) (string, error) {
	images, err := tx.Images()
	if err != nil || len(chain) == 0 {
		return "", err
	}
	for _, l := range chain[1:] {
		for _, i := range images {
			if i.Top == l.ID {
				return "sha256:" + i.ID, nil
			}
		}
	}
	return "", nil
}

func (e *Engine) describeImage(image layerdb.Image, chain []layerdb.Layer, refs []string, parent string) (*ImageInspect, error) {
	config, err := parseConfig(image)
	if err != nil {
		return nil, err
	}
	out := &ImageInspect{
		ID: "sha256:" + image.ID, RepoTags: []string{}, RepoDigests: []string{}, Parent: parent, Created: inspectTime(image.Created),
		Author: config.Author, Config: inspectConfig(config.Config), Architecture: config.Architecture, Variant: config.Variant, Os: config.OS,
		Size: chainSize(chain), RootFS: InspectRootFS{config.RootFS.Type, config.RootFS.DiffIDs},
	}
	for _, ref := range refs {
		out.RepoTags = append(out.RepoTags, layerdb.Familiar(ref))
	}
	if len(chain) > 0 {
		out.Comment = chain[0].Comment
	}
	out.GraphDriver, err = e.inspectLayers(layerNames(chain))
	return out, err
}

// inspectLayers says where the files of layers are: the top one's under the key that
// docker has for it.
func (e *Engine) inspectLayers(names []string) (InspectDriver, error) {
	dirs, err := e.layerPaths(names)
	data := map[string]string{}
	if len(dirs) > 0 {
		data["UpperDir"] = dirs[0]
	}
	if len(dirs) > 1 {
		data["LowerDir"] = strings.Join(dirs[1:], ":")
	}
	return InspectDriver{Data: data, Name: driverName}, err
}

func (e *Engine) layerPaths(names []string) ([]string, error) {
	var dirs []string
	for _, name := range names {
		l, err := e.Lower(name)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, l.Path)
	}
	return dirs, nil
}

// inspectTime is a time as docker's JSON has it.
func inspectTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// ContainerInspect is a container under docker's keys, and where its parts are.
type ContainerInspect struct {
	ID              string `json:"Id"`
	Created         string
	Path            string
	Args            []string
	State           InspectState
	Image           string
	Name            string
	Driver          string
	Platform        string
	RestartCount    int
	ResolvConfPath  string
	HostnamePath    string
	HostsPath       string
	LogPath         string
	MountLabel      string
	ProcessLabel    string
	AppArmorProfile string
	ExecIDs         []string
	HostConfig      InspectHostConfig
	GraphDriver     InspectDriver
	SizeRw          *int64 `json:",omitempty"`
	SizeRootFs      *int64 `json:",omitempty"`
	Mounts          []InspectMount
	Config          InspectConfig
	NetworkSettings InspectNetwork

	// Layers are the diff IDs of the chain that the container stands on, top first,
	// Upper is the directory of its own files, and Index the index of the chain, ""
	// while there is none.
	Layers []string
	Upper  string
	Index  string
}

// InspectState is how a container fares.
type InspectState struct {
	Status     container.Status
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        int
	ExitCode   int
	Error      string
	StartedAt  string
	FinishedAt string
	Health     *container.Health `json:",omitempty"`
}

// InspectMount is a volume.
type InspectMount struct {
	Type        string
	Source      string
	Destination string
	Mode        string
	RW          bool
	Propagation string
}

func (e *Engine) inspectContainer(name string, withSize bool) (*ContainerInspect, error) {
	c, spec, err := e.container(name)
	if err != nil {
		return nil, err
	}
	state, err := e.ReadState(c.ID)
	if err != nil {
		return nil, err
	}
	out := &ContainerInspect{
		ID: c.ID, Created: inspectTime(c.Created), Args: []string{}, State: inspectState(state), Image: "sha256:" + c.ImageID,
		Name: "/" + c.Name, Driver: driverName, Platform: "linux", Mounts: []InspectMount{}, Layers: spec.Layers,
		Upper: e.upper(c.ID), Index: e.indexFile(spec.Layers),
		HostConfig:      inspectHost(spec),
		RestartCount:    state.Restarts,
		ResolvConfPath:  e.EtcFile(spec.EtcOwner(), "resolv.conf"),
		HostnamePath:    e.EtcFile(spec.EtcOwner(), "hostname"),
		HostsPath:       e.EtcFile(spec.EtcOwner(), "hosts"),
		LogPath:         e.logPath(c.ID, spec),
		NetworkSettings: inspectNetwork(spec),
	}
	if len(c.Command) > 0 {
		out.Path, out.Args = c.Command[0], append(out.Args, c.Command[1:]...)
	}
	out.State.Health = e.readHealth(c.ID, state)
	out.addMounts(spec)
	out.addConfig(c, spec)
	if out.GraphDriver, err = e.inspectView(c.ID, spec.Layers); err != nil || !withSize {
		return out, err
	}
	return out, e.addSizes(out, c)
}

func (out *ContainerInspect) addMounts(spec container.Spec) {
	for _, m := range spec.AllMounts() {
		out.Mounts = append(out.Mounts, InspectMount{"bind", m.Source, m.Target, accessMode(m.ReadOnly), !m.ReadOnly, "rprivate"})
	}
	for _, t := range spec.Sandbox.TmpfsMounts { // and not those of --tmpfs, as docker
		out.Mounts = append(out.Mounts, InspectMount{"tmpfs", "", t.Target, "", !slices.Contains(t.Options, "ro"), ""})
	}
}

func accessMode(readOnly bool) string {
	if readOnly {
		return "ro"
	}
	return ""
}

func (out *ContainerInspect) addConfig(c layerdb.Container, spec container.Spec) {
	out.Config = inspectConfig(spec.Config)
	out.Config.Hostname, out.Config.Image = spec.Hostname, c.ImageName
	out.Config.Domainname = spec.Sandbox.Domainname
	out.Config.Tty, out.Config.OpenStdin, out.Config.StdinOnce = spec.Terminal, spec.Stdin, spec.StdinOnce
	out.Config.AttachStdin = spec.Stdin && !spec.Detached
	out.Config.AttachStdout, out.Config.AttachStderr = !spec.Detached, !spec.Detached
	out.Config.StopTimeout = spec.StopTimeout
}

// notNil has an empty list shown as one.
func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// logPath is the newest file of a container's log, "" if it keeps none.
func (e *Engine) logPath(id string, spec container.Spec) string {
	if spec.Log.Driver == container.LogNone {
		return ""
	}
	return filepath.Join(e.store.ContainerDir(id), container.LogName)
}

func inspectState(s container.State) InspectState {
	out := InspectState{
		Status: s.Status, Running: s.Status == container.Running, ExitCode: s.ExitCode, Error: s.Error, OOMKilled: s.OOMKilled,
		StartedAt: inspectTime(s.Started), FinishedAt: inspectTime(s.Finished),
	}
	switch {
	case s.Paused():
		out.Status, out.Paused = "paused", true
	case s.Status == container.Restarting: // which is running, in docker's words
		out.Running, out.Restarting = true, true
	}
	if s.Status == container.Running {
		out.Pid = s.Init.Pid
	}
	return out
}

// inspectView says where the parts of a container's view are.
func (e *Engine) inspectView(id string, layers []string) (InspectDriver, error) {
	dirs, err := e.layerPaths(layers)
	dir := e.store.ContainerDir(id)
	return InspectDriver{Name: driverName, Data: map[string]string{
		"LowerDir": strings.Join(dirs, ":"), "UpperDir": filepath.Join(dir, container.UpperName),
		"WorkDir": filepath.Join(dir, container.WorkName), "MergedDir": filepath.Join(dir, container.ViewName),
	}}, err
}

// indexFile is the index of a chain, "" if there is none.
func (e *Engine) indexFile(names []string) string {
	var chainID digest.Digest
	for _, name := range slices.Backward(names) {
		if name == container.HostLayer {
			return ""
		}
		chainID = layout.ChainID(chainID, digest.Digest(name))
	}
	if chainID == "" || !isFile(e.store.ChainFile(chainID)) {
		return ""
	}
	return e.store.ChainFile(chainID)
}

// addSizes measures the upper, and adds the layers'.
func (e *Engine) addSizes(out *ContainerInspect, c layerdb.Container) error {
	own, err := e.ownSize(c.ID)
	if err != nil {
		return err
	}
	all := own
	err = e.store.View(func(tx *layerdb.Tx) error {
		chain, err := tx.Chain(c.Top)
		all += chainSize(chain)
		return err
	})
	out.SizeRw, out.SizeRootFs = &own, &all
	return err
}

// ownSize is how many bytes a container has of its own.
func (e *Engine) ownSize(id string) (int64, error) {
	spec, err := e.ReadSpec(id)
	if err != nil {
		return 0, err
	}
	dir, done, err := e.openUpper(&spec, archive.Difference{Hollow: true, Loose: true})
	if err != nil {
		return 0, err
	}
	size, err := filesSize(dir)
	return size, errors.Join(err, done())
}

// spaceOf is the size of all files that are kept for a container, and for no other: beside
// its own those of a copy that it stands on.
func (e *Engine) spaceOf(id string) (int64, error) {
	own, err := filesSize(e.upper(id))
	copied, copyErr := filesSize(filepath.Join(e.store.ContainerDir(id), container.CopyName))
	return own + copied, errors.Join(err, copyErr)
}

// filesSize is the sum of the sizes of the files below dir, several names of one
// counted each.
func filesSize(dir string) (int64, error) {
	size := int64(0)
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return skipGone(err)
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return skipGone(err)
	})
	return size, err
}

// skipGone forgives what a running container removed meanwhile.
func skipGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
