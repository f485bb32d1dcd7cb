package index

import (
	"strings"

	"github.com/varvefs/varve/whiteout"
)

// part is a directory in one layer.
type part struct {
	layer uint16
	moved bool   // by a redirect: its path is not what the names say
	path  string // relative to the root of the layer
}

// follow finds the parts of a directory that its part p redirects to.
func (b *builder) follow(d *dir, p part, redirect string) ([]part, error) {
	var found []whiteout.Part
	var err error
	if strings.HasPrefix(redirect, "/") || d.parent == nil {
		found, err = whiteout.Resolve(b.roots, int(p.layer)+1, redirect)
	} else {
		found, err = whiteout.Step(b.roots, d.parent.below(p.layer), redirect)
	}
	if err != nil {
		return nil, err
	}
	var parts []part
	for _, f := range found {
		parts = append(parts, part{layer: uint16(f.Layer), moved: true, path: f.Path})
	}
	return parts, nil
}
