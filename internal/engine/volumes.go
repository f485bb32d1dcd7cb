package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/varvefs/varve/runner"
)

// parseVolumes reads -v options. A source that is not there is made, an empty
// directory, as docker does.
func parseVolumes(list []string) ([]runner.Mount, error) {
	var mounts []runner.Mount
	seen := map[string]bool{}
	for _, text := range list {
		m, err := parseVolume(text)
		if err != nil {
			return nil, err
		}
		if seen[m.Target] {
			return nil, fmt.Errorf("duplicate mount point: %s", m.Target)
		}
		seen[m.Target] = true
		if err := makeSource(m.Source); err != nil {
			return nil, fmt.Errorf("invalid volume %q: %w", text, err)
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

func parseVolume(text string) (runner.Mount, error) {
	bad := func(why string) (runner.Mount, error) {
		return runner.Mount{}, fmt.Errorf("invalid volume %q: %s; write -v /DIR:/DIR or -v /DIR:/DIR:ro", text, why)
	}
	part := strings.Split(text, ":")
	if len(part) < 2 || len(part) > 3 {
		return bad("it needs a source and a target")
	}
	m := runner.Mount{Source: filepath.Clean(part[0]), Target: filepath.Clean(part[1])}
	if !filepath.IsAbs(part[0]) {
		return bad("the source is not an absolute path, and named volumes do not exist yet")
	}
	if !filepath.IsAbs(part[1]) {
		return bad("the target is not an absolute path")
	}
	if m.Target == "/" {
		return bad("destination can't be '/'")
	}
	if len(part) == 3 {
		switch part[2] {
		case "ro":
			m.ReadOnly = true
		case "rw":
		default:
			return bad(fmt.Sprintf("unknown mode %q", part[2]))
		}
	}
	return m, nil
}

func makeSource(path string) error {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(path, 0o755)
	}
	return err
}
