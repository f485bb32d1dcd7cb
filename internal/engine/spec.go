package engine

import (
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/layerdb"
)

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
