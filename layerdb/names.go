package layerdb

import (
	"os"
	"path/filepath"
	"strings"
)

// namesName is a directory of links, from the name of a container to its ID. They are
// hints, for a verb that looks for a container that runs: to open the database would
// take most of its time. A hint counts only together with the copy of the record that
// lies in the container's directory ([Store.GlanceContainer]), so it may be missing,
// dangle, or be of before.
const namesName = "names"

// hint links name to id; that it can not be is no error.
func (s *Store) hint(name, id string) {
	link := s.Path(namesName, name)
	if os.Symlink(id, link) == nil {
		return
	}
	_ = os.Mkdir(s.Path(namesName), 0o700) // it may be there
	_ = os.Remove(link)                    // it may not be there
	_ = os.Symlink(id, link)
}

// dropHint takes the link of name away, if it leads to id.
func (s *Store) dropHint(name, id string) {
	link := s.Path(namesName, name)
	if to, err := os.Readlink(link); err == nil && to == id {
		_ = os.Remove(link) // the next glance sees that it is wrong
	}
}

// GlanceContainer finds a container by full ID or exact name without opening the
// database; found is false also where only the database knows. What it finds was
// recorded, or is being recorded at this moment: who needs more than a container
// that runs asks [Tx.FindContainer].
func (s *Store) GlanceContainer(name string) (c Container, found bool) {
	name = strings.TrimPrefix(name, "/")
	id := name
	if !isID(name) {
		if name == "" || name != filepath.Base(name) {
			return Container{}, false
		}
		var err error
		if id, err = os.Readlink(s.Path(namesName, name)); err != nil || !isID(id) {
			return Container{}, false
		}
	}
	var copied containerCopy
	if err := readJSON(filepath.Join(s.ContainerDir(id), recordName), &copied); err != nil {
		return Container{}, false
	}
	c = copied.Container
	c.ID = id
	return c, name == id || name == c.Name
}

// isID tells whether this is a full ID.
func isID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
