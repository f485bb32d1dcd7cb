package archive

import (
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/layerdb"
)

// The bounds of a config. One of docker's largest images has 20 KiB and 60 lines
// of history; a transaction of the store holds 600 KiB, in which the config is
// half as long again and each line is a record.
const (
	maxConfig  = 192 << 10
	maxLayers  = 500
	maxHistory = 1000
)

// ParseConfig reads an image's config as [ReadConfig] does, and checks that it is for
// this machine.
func ParseConfig(raw []byte) (v1.Image, error) {
	config, err := ReadConfig(raw)
	if err != nil {
		return config, err
	}
	return config, checkPlatform(config.Platform)
}

// ReadConfig reads an image's config and checks what is relied on: that its diff IDs
// are digests, and that it is not too long.
func ReadConfig(raw []byte) (v1.Image, error) {
	var config v1.Image
	if len(raw) > maxConfig {
		return config, fmt.Errorf("%w: the image's config has %d bytes, %d are allowed", ErrTooBig, len(raw), maxConfig)
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return config, fmt.Errorf("read the image's config: %w", err)
	}
	switch {
	case config.RootFS.Type != "layers":
		return config, fmt.Errorf("the image's config has a root file system of type %s instead of \"layers\"", quote(config.RootFS.Type))
	case len(config.RootFS.DiffIDs) > maxLayers:
		return config, fmt.Errorf("%w: the image has %d layers, %d are allowed", ErrTooBig, len(config.RootFS.DiffIDs), maxLayers)
	case len(config.History) > maxHistory:
		return config, fmt.Errorf("%w: the image has %d lines of history, %d are allowed", ErrTooBig, len(config.History), maxHistory)
	}
	for _, id := range config.RootFS.DiffIDs {
		if err := checkDigest(id); err != nil {
			return config, fmt.Errorf("the image's config: diff ID %w", err)
		}
	}
	return config, nil
}

// checkPlatform refuses what this machine can not run. What is not said is taken
// for ours, as docker does.
func checkPlatform(p v1.Platform) error {
	if !ours(p) {
		return fmt.Errorf("%w: it is for %s/%s, and this machine is linux/%s", ErrPlatform, p.OS, p.Architecture, runtime.GOARCH)
	}
	return nil
}

func ours(p v1.Platform) bool {
	return (p.OS == "" || p.OS == "linux") && (p.Architecture == "" || p.Architecture == runtime.GOARCH)
}

// chainOf makes the records of an image's layers from its config, lowest first and
// sealed. There is one at least. sizes has the bytes of each layer's files.
func chainOf(config v1.Image, sizes map[digest.Digest]int64) ([]layerdb.Layer, error) {
	var chain []layerdb.Layer
	below := layerdb.Layer{}
	for _, l := range linesOf(config) {
		l.Parent, l.ChainID = below.ID, below.ChainID
		if !l.Empty {
			size, ok := sizes[l.DiffID]
			if !ok {
				return nil, fmt.Errorf("the image's layer %s is missing", l.DiffID)
			}
			l.Size, l.ChainID = size, layout.ChainID(below.ChainID, l.DiffID)
		}
		if err := l.Seal(); err != nil {
			return nil, err
		}
		chain = append(chain, l)
		below = l
	}
	return chain, nil
}

// linesOf joins the history of a config with its diff IDs. Builders may leave out
// lines, at the top or all of them; a history with more layers than there are says
// nothing, and counts as none.
func linesOf(config v1.Image) []layerdb.Layer {
	diffs := config.RootFS.DiffIDs
	var lines []layerdb.Layer
	for _, h := range config.History {
		l := layerdb.Layer{Created: timeOf(h.Created), CreatedBy: h.CreatedBy, Author: h.Author, Comment: h.Comment, Empty: h.EmptyLayer}
		if !l.Empty {
			if len(diffs) == 0 {
				return linesOf(v1.Image{Created: config.Created, RootFS: config.RootFS})
			}
			l.DiffID, diffs = diffs[0], diffs[1:]
		}
		lines = append(lines, l)
	}
	for _, id := range diffs {
		lines = append(lines, layerdb.Layer{Created: timeOf(config.Created), DiffID: id})
	}
	if len(lines) == 0 { // an image of nothing yet, as `umoci new` makes it
		lines = append(lines, layerdb.Layer{Created: timeOf(config.Created), Empty: true})
	}
	return lines
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
