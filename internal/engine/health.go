package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/varvefs/varve/internal/container"
)

// HealthOptions are what docker's flags say of the checks. What is zero is the image's.
type HealthOptions struct {
	Cmd                                           string // a line for the image's shell
	Interval, Timeout, StartPeriod, StartInterval time.Duration
	Retries                                       int
	None                                          bool // no checks, whatever the image says
}

// Check refuses what docker refuses.
func (h HealthOptions) Check() error {
	asked := h
	asked.None = false
	if h.None && asked != (HealthOptions{}) {
		return errors.New("--no-healthcheck conflicts with --health-* options")
	}
	for _, d := range []struct {
		flag, name string
		value      time.Duration
	}{
		{"--health-interval", "Interval", h.Interval}, {"--health-timeout", "Timeout", h.Timeout},
		{"--health-start-period", "StartPeriod", h.StartPeriod}, {"--health-start-interval", "StartInterval", h.StartInterval},
	} {
		switch {
		case d.value < 0:
			return fmt.Errorf("%s cannot be negative", d.flag)
		case d.value > 0 && d.value < time.Millisecond:
			return fmt.Errorf("%s in Healthcheck cannot be less than 1ms", d.name)
		}
	}
	if h.Retries < 0 {
		return errors.New("--health-retries cannot be negative")
	}
	return nil
}

// over is what is asked for over what the image has; nil is no check.
func (h HealthOptions) over(image *container.Healthcheck) *container.Healthcheck {
	if h == (HealthOptions{}) {
		return image
	}
	if h.None {
		return &container.Healthcheck{Test: []string{"NONE"}}
	}
	var check container.Healthcheck
	if image != nil {
		check = *image
	}
	if h.Cmd != "" {
		check.Test = []string{"CMD-SHELL", h.Cmd}
	}
	for _, d := range []struct {
		to    *time.Duration
		value time.Duration
	}{
		{&check.Interval, h.Interval}, {&check.Timeout, h.Timeout}, {&check.StartPeriod, h.StartPeriod}, {&check.StartInterval, h.StartInterval},
	} {
		if d.value != 0 {
			*d.to = d.value
		}
	}
	if h.Retries != 0 {
		check.Retries = h.Retries
	}
	return &check
}

// readHealth is how well a container is, nil if it is not checked.
func (e *Engine) readHealth(id string, state container.State) *container.Health {
	if state.Health == "" {
		return nil
	}
	var h container.Health
	raw, err := os.ReadFile(filepath.Join(e.store.ContainerDir(id), container.HealthName))
	if err != nil || json.Unmarshal(raw, &h) != nil {
		h = container.Health{} // torn by a power failure
	}
	h.Status = state.Health
	if h.Log == nil {
		h.Log = []container.HealthResult{}
	}
	return &h
}
