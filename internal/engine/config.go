package engine

import (
	"encoding/json"
	"fmt"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/layerdb"
)

// imageConfig is the whole configuration of an image. Its Config takes the place of
// that of v1.Image.
type imageConfig struct {
	v1.Image
	Config container.Config `json:"config"`
}

// parseConfig reads the configuration of an image.
func parseConfig(image layerdb.Image) (imageConfig, error) {
	var config imageConfig
	if err := json.Unmarshal(image.Config, &config); err != nil {
		return config, fmt.Errorf("read the configuration of image %s: %w", image.ID, err)
	}
	return config, nil
}
