package layerdb

import (
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/varvefs/varve/internal/layout"
)

// Check compares the records with each other and with their names, which are digests
// of what they say. It returns a sentence for all that does not fit.
func (tx *Tx) Check() (problems []string, err error) {
	c := checker{tx: tx, layers: map[string]Layer{}}
	for _, step := range []func() error{c.checkLayers, c.checkImages, c.checkTags, c.checkContainers} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return c.problems, nil
}

type checker struct {
	tx       *Tx
	layers   map[string]Layer
	problems []string
}

func (c *checker) say(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

func (c *checker) checkLayers() error {
	list, err := c.tx.Layers()
	for _, l := range list {
		c.layers[l.ID] = l
	}
	for _, l := range list {
		sealed := l
		if err := sealed.Seal(); err != nil {
			return err
		}
		if sealed.ID != l.ID {
			c.say("layer %.12s: its record was changed", l.ID)
		}
		below, ok := c.layers[l.Parent]
		if l.Parent != "" && !ok {
			c.say("layer %.12s: its parent %.12s is not there", l.ID, l.Parent)
			continue
		}
		if want := chainIDOver(below.ChainID, l); l.ChainID != want && !l.Host {
			c.say("layer %.12s: its chain ID is %s instead of %s", l.ID, l.ChainID, want)
		}
	}
	return err
}

// chainIDOver is the chain ID that a layer has over the chain below.
func chainIDOver(below digest.Digest, l Layer) digest.Digest {
	if l.Empty {
		return below
	}
	return layout.ChainID(below, l.DiffID)
}

func (c *checker) checkImages() error {
	list, err := c.tx.Images()
	for _, i := range list {
		sealed := i
		sealed.Seal()
		if sealed.ID != i.ID {
			c.say("image %.12s: its config was changed", i.ID)
		}
		if _, ok := c.layers[i.Top]; !ok && i.Top != "" {
			c.say("image %.12s: its layer %.12s is not there", i.ID, i.Top)
		}
	}
	return err
}

func (c *checker) checkTags() error {
	tags, err := c.tx.Tags()
	if err != nil {
		return err
	}
	images, err := c.tx.Images()
	for ref, id := range tags {
		if !slices.ContainsFunc(images, func(i Image) bool { return i.ID == id }) {
			c.say("the name %s: its image %.12s is not there", Familiar(ref), id)
		}
	}
	return err
}

func (c *checker) checkContainers() error {
	list, err := c.tx.Containers()
	for _, box := range list {
		if _, ok := c.layers[box.Top]; !ok {
			c.say("container %s: its layer %.12s is not there", box.Name, box.Top)
		}
		if id, err := c.tx.get(nameKey + box.Name); err != nil || string(id) != box.ID {
			c.say("container %.12s: its name %s is not its own", box.ID, box.Name)
		}
	}
	return err
}

// CheckBytes tells what of the directory of a layer is not there, nil if it is whole
// or the layer has none. It looks at no file in it.
func (s *Store) CheckBytes(l Layer) error {
	if !l.hasBytes() {
		return nil
	}
	return s.lacksBytes(l)
}
