package index

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/whiteout"
)

// part is a directory in one layer.
type part struct {
	layer uint16
	moved bool   // by a redirect: its path is not what the names say
	path  string // relative to the root of the layer
}

// findData finds the data of the files in d that have only their metadata where they
// were found. What no layer has stays without, and data of another size is none.
// Preconditions: all parts of d are known.
func (b *builder) findData(d *dir) error {
	for i := range d.entries {
		e := &d.entries[i]
		if e.data == nil {
			continue
		}
		where, fd, err := whiteout.OpenData(b.roots, d.from(int(e.layer)), e.name)
		if errors.Is(err, unix.EIO) {
			continue
		}
		if err != nil {
			return fmt.Errorf("data of %q: %w", e.name, err)
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		_ = unix.Close(fd) // read only
		if err != nil {
			return fmt.Errorf("data of %q: %w", e.name, err)
		}
		if uint64(st.Size) != e.size {
			continue
		}
		if e.blocks*512 < e.size { // else it takes space itself, and the merged tree does not ask
			e.blocks = uint64(st.Blocks)
		}
		e.data = append(e.data, part{layer: uint16(where.Layer), moved: true, path: where.Path})
	}
	return nil
}

// follow finds the parts of a directory that its part p redirects to.
func (b *builder) follow(d *dir, p part, redirect string) ([]part, error) {
	var found []whiteout.Part
	var err error
	if strings.HasPrefix(redirect, "/") || d.parent == nil {
		found, err = whiteout.Resolve(b.roots, int(p.layer)+1, redirect)
	} else {
		found, err = whiteout.Step(b.roots, d.parent.from(int(p.layer)+1), redirect)
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
