package layerdb

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// A Layer is a read-only set of changes over its parent, and who made it, how.
// Its ID is the digest of all the rest, so it is never changed once put.
type Layer struct {
	ID        string        `json:"-"`                // 64 hex digits, by Seal
	Parent    string        `json:"parent,omitempty"` // ID of the layer below; "" for the lowest
	DiffID    digest.Digest `json:"diff_id,omitempty"`
	ChainID   digest.Digest `json:"chain_id,omitempty"` // OCI image-spec config.md, "Layer ChainID"
	Created   time.Time     `json:"created"`
	CreatedBy string        `json:"created_by,omitempty"`
	Author    string        `json:"author,omitempty"`
	Comment   string        `json:"comment,omitempty"`
	Size      int64         `json:"size,omitempty"`  // bytes of its files
	Host      bool          `json:"host,omitempty"`  // this machine's own files: no directory
	Empty     bool          `json:"empty,omitempty"` // an entry of the history without files: no directory
}

// hasBytes tells whether the layer has a directory in layers/.
func (l *Layer) hasBytes() bool { return !l.Host && !l.Empty }

// Seal sets the ID from everything else. Times are kept in UTC.
func (l *Layer) Seal() error {
	l.Created = l.Created.UTC()
	raw, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("seal layer: %w", err)
	}
	l.ID = hexSum(raw)
	return nil
}

// HostLayer returns the one layer of the image "host": the files of this machine,
// whatever they are. It has no diff ID, and a chain ID no real layer can have.
func HostLayer() (Layer, error) {
	l := Layer{Host: true, CreatedBy: "this machine", ChainID: digest.FromString("varve host layer")}
	return l, l.Seal()
}

// An Image is a chain and the OCI configuration for running it.
type Image struct {
	ID      string    `json:"-"`      // hex sha256 of Config
	Top     string    `json:"top"`    // ID of the top layer
	Config  []byte    `json:"config"` // OCI image config, the exact bytes
	Created time.Time `json:"created"`
}

// Seal sets the ID from the Config.
func (i *Image) Seal() {
	i.Created = i.Created.UTC()
	i.ID = hexSum(i.Config)
}

// A Container is a chain with a read-write layer on it, and a name. What it runs
// is in its config.json, and how it fares in its state.json.
type Container struct {
	ID        string    `json:"-"` // 64 hex digits
	Name      string    `json:"name"`
	ImageID   string    `json:"image_id"`
	ImageName string    `json:"image_name"` // as it was asked for
	Top       string    `json:"top"`        // ID of the chain's top layer
	Created   time.Time `json:"created"`
	Command   []string  `json:"command,omitempty"`
}

func hexSum(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
