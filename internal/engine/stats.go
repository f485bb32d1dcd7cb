package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/unionfs"
)

// StatsVersion is the version of the document that a stats socket gives. It goes up
// when a field changes its meaning or goes, not when one comes.
const StatsVersion = 1

// MountStats is what the server of a view tells of itself and the view: the one
// JSON document that who connects to its stats socket gets, until end of file.
type MountStats struct {
	Version    int       `json:"version"` // StatsVersion
	MountPoint string    `json:"mount_point"`
	PID        int       `json:"pid"` // of the server, as it sees itself
	Started    time.Time `json:"started"`
	Uptime     float64   `json:"uptime_seconds"`
	unionfs.Stats
	Memory     MemoryStats `json:"memory"`
	Goroutines int         `json:"goroutines"`
}

// MemoryStats are bytes: of the objects on Go's heap, of all that Go has from the
// system, and of the process in memory, with what it has mapped of an index.
type MemoryStats struct {
	Heap     uint64 `json:"heap_bytes"`
	Go       uint64 `json:"go_bytes"`
	Resident uint64 `json:"resident_bytes"`
}

// ReadStats returns what the server of a view says; place is its stats socket, or
// where the view is mounted. An older or newer varve may serve it.
func ReadStats(place string) (MountStats, error) {
	raw, err := ReadStatsJSON(place)
	if err != nil {
		return MountStats{}, err
	}
	var s MountStats
	if err := json.Unmarshal(raw, &s); err != nil {
		return MountStats{}, fmt.Errorf("%s: what the server says is no JSON document: %w", place, err)
	}
	if s.Version != StatsVersion {
		return MountStats{}, fmt.Errorf("%s: the server's figures are of version %d, this varve knows version %d: ask with the varve that serves it, or for JSON",
			place, s.Version, StatsVersion)
	}
	return s, nil
}

// ReadStatsJSON is ReadStats with the document as the server wrote it.
func ReadStatsJSON(place string) ([]byte, error) {
	socket, err := statsSocketOf(place)
	if err != nil {
		return nil, err
	}
	c, err := net.Dial("unix", socket)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("%s: its server is gone: nobody answers on the socket", socket)
	case err != nil:
		return nil, fmt.Errorf("ask for stats: %w", err)
	}
	raw, err := io.ReadAll(c)
	switch err = errors.Join(err, c.Close()); {
	case errors.Is(err, unix.ECONNRESET):
		return nil, fmt.Errorf("%s: its server is gone: it was killed", socket)
	case err != nil:
		return nil, fmt.Errorf("ask for stats at %s: %w", socket, err)
	}
	if len(raw) == 0 {
		return nil, fmt.Errorf("%s: the view was just unmounted", place)
	}
	return raw, nil
}

// statsSocketOf is the socket of the view that place names.
func statsSocketOf(place string) (string, error) {
	info, err := os.Stat(place)
	if err != nil {
		return "", err
	}
	switch {
	case info.Mode().Type() == os.ModeSocket:
		return place, nil
	case !info.IsDir():
		return "", fmt.Errorf("%s is neither a socket nor a mount point", place)
	}
	socket, err := unionfs.StatsPlace(place)
	if err != nil {
		return "", fmt.Errorf("%s: no view with figures is mounted here: mount it with -o stats=SOCKET, or name the socket", place)
	}
	return socket, nil
}
