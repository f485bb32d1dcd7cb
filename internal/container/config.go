package container

import (
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Config is what an image says of its containers: OCI's, and what docker writes
// into the same place.
type Config struct {
	v1.ImageConfig
	Healthcheck *Healthcheck `json:",omitempty"`
	OnBuild     []string     `json:",omitempty"` // instructions for builds on this image
	Shell       []string     `json:",omitempty"` // of the shell form of CMD and others
}

// A Healthcheck is how docker asks a container whether it is well. Zero durations
// and retries are docker's defaults.
type Healthcheck struct {
	Test          []string      `json:",omitempty"` // NONE, CMD and a program, or CMD-SHELL and a line
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}
