package unionfs

import "fmt"

// Names lists the directory at path, relative to the root, in byte order. It
// fails as Lookup does, and with ENOTDIR where path is something else.
func (t *Tree) Names(path string) ([]string, error) {
	e, err := t.Lookup(path)
	if err != nil {
		return nil, err
	}
	d, err := t.load(e.inum)
	if err != nil {
		return nil, fmt.Errorf("list %q: %w", path, err)
	}
	names := make([]string, len(d.names))
	for i, n := range d.names {
		names[i] = n.name
	}
	return names, nil
}
