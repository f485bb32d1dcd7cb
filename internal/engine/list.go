package engine

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/layerdb"
	"github.com/varvefs/varve/runner"
)

// ContainerInfo is one line of `varve ps`.
type ContainerInfo struct {
	layerdb.Container
	State container.State
}

func containerFilters() []string {
	return []string{"id", "name", "label", "status", "exited", "ancestor", "health", "restart-policy",
		"volume", "network", "before", "since", "publish", "expose", "is-task"}
}

// Containers returns all containers, the newest first, that docker's filters
// (KEY=VALUE) let through; and podman's restart-policy.
func (e *Engine) Containers(asked ...string) ([]ContainerInfo, error) {
	filters, err := parseFilters(asked, containerFilters()...)
	if err == nil {
		err = filters.checkContainers()
	}
	if err != nil {
		return nil, err
	}
	var list []ContainerInfo
	err = e.store.View(func(tx *layerdb.Tx) error {
		if err := filters.containerTimes(tx); err != nil {
			return err
		}
		all, err := tx.Containers()
		for _, c := range all {
			list = append(list, ContainerInfo{Container: c})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	kept := list[:0]
	for _, c := range list {
		if c.State, err = e.ReadState(c.ID); err != nil {
			return nil, err
		}
		ok, err := e.matches(c, filters)
		if err != nil {
			return nil, err
		}
		if ok {
			kept = append(kept, c)
		}
	}
	slices.SortStableFunc(kept, func(a, b ContainerInfo) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return kept, nil
}

// matches tells whether a container is one that was asked for: for each key, one of
// the values.
func (e *Engine) matches(c ContainerInfo, f filters) (bool, error) {
	for key, holds := range map[string]func(string) bool{
		"id":       func(v string) bool { return strings.HasPrefix(c.ID, v) },
		"name":     func(v string) bool { return matchName(v, c.Name) },
		"status":   func(v string) bool { return v == c.State.Word() },
		"exited":   func(v string) bool { return c.State.Status == container.Exited && v == strconv.Itoa(c.State.ExitCode) },
		"ancestor": func(v string) bool { return isAncestor(v, c) },
		"health":   func(v string) bool { return v == cmp.Or(c.State.Health, container.HealthNone) },
	} {
		if len(f[key]) > 0 && !slices.ContainsFunc(f[key], holds) {
			return false, nil
		}
	}
	if !f.inTime(c.Created) || len(f["publish"]) > 0 || len(f["expose"]) > 0 { // there are no ports yet
		return false, nil
	}
	for _, key := range []string{"label", "restart-policy", "volume", "network"} {
		if len(f[key]) > 0 {
			spec, err := e.ReadSpec(c.ID)
			return err == nil && f.matchSpec(spec), err
		}
	}
	return true, nil
}

// matchSpec tells whether a container was made as it was asked for.
func (f filters) matchSpec(spec container.Spec) bool {
	for key, holds := range map[string]func(string) bool{
		"restart-policy": func(v string) bool { return v == cmp.Or(spec.Restart.Name, "no") },
		"network":        func(v string) bool { return v == spec.Network() },
		"volume": func(v string) bool {
			return slices.ContainsFunc(spec.AllMounts(), func(m runner.Mount) bool { return m.Source == v || m.Target == v })
		},
	} {
		if len(f[key]) > 0 && !slices.ContainsFunc(f[key], holds) {
			return false
		}
	}
	return f.labels(spec.Config.Labels)
}

// ContainerDetails is what lists show of how a container was made.
type ContainerDetails struct {
	Labels  map[string]string
	Mounts  []string // the sources of its volumes
	Network string
}

// Details reads them.
func (e *Engine) Details(c ContainerInfo) (ContainerDetails, error) {
	spec, err := e.ReadSpec(c.ID)
	d := ContainerDetails{Labels: spec.Config.Labels, Network: spec.Network()}
	for _, m := range spec.AllMounts() {
		d.Mounts = append(d.Mounts, m.Source)
	}
	return d, err
}

// matchName holds a name against a pattern, which is a regular expression as docker's.
func matchName(pattern, name string) bool {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return strings.Contains(name, pattern)
	}
	return re.MatchString(name) || re.MatchString("/"+name)
}

// isAncestor tells whether a container was made of the image of this name or ID.
func isAncestor(name string, c ContainerInfo) bool {
	return name == c.ImageName || name+":latest" == c.ImageName || name == c.ImageName+":latest" ||
		len(name) >= 4 && strings.HasPrefix(c.ImageID, strings.TrimPrefix(name, "sha256:"))
}

// SizeOf is how many bytes a container has of its own, and with its image. It has to
// run [Inside].
func (e *Engine) SizeOf(c ContainerInfo) (own, all int64, err error) {
	if own, err = e.ownSize(c.ID); err != nil {
		return 0, 0, err
	}
	err = e.store.View(func(tx *layerdb.Tx) error {
		chain, err := tx.Chain(c.Top)
		all = own + chainSize(chain)
		return err
	})
	return own, all, err
}

// ChainLayer is a layer of an image's chain.
type ChainLayer = layerdb.Layer

// ImageInfo is an image, its names and its chain.
type ImageInfo struct {
	ID      string
	Created time.Time       // zero: at no time
	Refs    []string        // full references, sorted; none for a nameless image
	Layers  []layerdb.Layer // its chain, top first
	Size    int64           // bytes of the files of all its layers
	Digests []string        // its names by digest, REPOSITORY@DIGEST as people know them, sorted

	config []byte
}

// ImageName is a name of an image in two parts, as people know it.
type ImageName struct{ Repository, Tag string }

// Names are the names of the image, in the order of Refs.
func (i ImageInfo) Names() []ImageName {
	var names []ImageName
	for _, ref := range i.Refs {
		repo, tag := layerdb.RepoTag(ref)
		names = append(names, ImageName{repo, tag})
	}
	return names
}

// Images returns all images, the newest first, that docker's filters (KEY=VALUE)
// let through: dangling, label, before, since and reference. Of the names of an
// image the filter reference leaves those that match. "host" is among the images
// always.
func (e *Engine) Images(asked ...string) ([]ImageInfo, error) {
	filters, err := parseFilters(asked, "dangling", "label", "before", "since", "reference")
	if err != nil {
		return nil, err
	}
	var list []ImageInfo
	err = e.store.View(func(tx *layerdb.Tx) error {
		images, err := tx.Images()
		if err != nil {
			return err
		}
		tags, err := tx.Tags()
		if err != nil {
			return err
		}
		if list, err = describe(tx, images, tags); err != nil {
			return err
		}
		list, err = filterImages(tx, list, filters)
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(list, func(a, b ImageInfo) int {
		return cmp.Or(b.Created.Compare(a.Created), slices.Compare(a.Refs, b.Refs), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

func describe(tx *layerdb.Tx, images []layerdb.Image, tags map[string]string) ([]ImageInfo, error) {
	refs := map[string][]string{}
	for ref, id := range tags {
		refs[id] = append(refs[id], ref)
	}
	digests, err := tx.Digests()
	if err != nil {
		return nil, err
	}
	layers, err := tx.Layers() // all at once: to look up each costs half as much again
	if err != nil {
		return nil, err
	}
	byID := map[string]layerdb.Layer{}
	for _, l := range layers {
		byID[l.ID] = l
	}
	var list []ImageInfo
	for _, i := range images {
		chain, err := chainFrom(byID, i.Top)
		if err != nil {
			return nil, err
		}
		slices.Sort(refs[i.ID])
		list = append(list, ImageInfo{i.ID, i.Created, refs[i.ID], chain, chainSize(chain), digestsOf(digests, i.ID), i.Config})
	}
	if tags[hostRef] != "" {
		return list, nil
	}
	layer, image, err := hostImage()
	if err != nil {
		return nil, err
	}
	return append(list, ImageInfo{ID: image.ID, Refs: []string{hostRef}, Layers: []layerdb.Layer{layer}, config: image.Config}), nil
}

// chainFrom is the layer top and its ancestors.
func chainFrom(byID map[string]layerdb.Layer, top string) (chain []layerdb.Layer, err error) {
	for id := top; id != ""; {
		l, ok := byID[id]
		if !ok {
			return nil, fmt.Errorf("%w: %s", layerdb.ErrNoSuchLayer, id)
		}
		chain = append(chain, l)
		id = l.Parent
	}
	return chain, nil
}

func chainSize(chain []layerdb.Layer) int64 {
	size := int64(0)
	for _, l := range chain {
		size += l.Size
	}
	return size
}

// HistoryEntry is one line of `varve history`: a layer, and the image that it is
// the top of, if there is one.
type HistoryEntry struct {
	layerdb.Layer
	ImageID string // "" for none
}

// History follows the parent pointers of an image from its top layer down.
func (e *Engine) History(name string) ([]HistoryEntry, error) {
	var list []HistoryEntry
	err := e.store.View(func(tx *layerdb.Tx) error {
		image, err := lookImage(tx, name)
		if err != nil {
			return err
		}
		if image.host != nil {
			list = []HistoryEntry{{*image.host, image.ID}}
			return nil
		}
		list, err = history(tx, image.Image)
		return err
	})
	return list, err
}

func history(tx *layerdb.Tx, image layerdb.Image) ([]HistoryEntry, error) {
	images, err := tx.Images()
	if err != nil {
		return nil, err
	}
	tops := map[string]string{}
	for _, i := range images {
		tops[i.Top] = i.ID
	}
	tops[image.Top] = image.ID
	chain, err := tx.Chain(image.Top)
	if err != nil {
		return nil, err
	}
	var list []HistoryEntry
	for _, l := range chain {
		list = append(list, HistoryEntry{l, tops[l.ID]})
	}
	return list, nil
}
