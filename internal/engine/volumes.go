package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/varvefs/varve/runner"
)

// parseVolumes reads -v options. A source that is not there is made, an empty
// directory, as docker does.
func parseVolumes(list []string) ([]runner.Mount, error) {
	var mounts []runner.Mount
	for _, text := range list {
		m, err := parseVolume(text)
		if err != nil {
			return nil, err
		}
		if err := makeSource(m.Source); err != nil {
			return nil, fmt.Errorf("invalid volume %q: %w", text, err)
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// parseVolume reads SOURCE:TARGET[:MODE]. The sentences are docker's.
func parseVolume(text string) (runner.Mount, error) {
	part := strings.Split(text, ":")
	switch {
	case text == "":
		return runner.Mount{}, errors.New("invalid empty volume spec")
	case len(part) > 1 && slices.Contains(part, ""):
		return runner.Mount{}, fmt.Errorf("invalid spec: %s: empty section between colons", text)
	case len(part) > 3:
		return runner.Mount{}, fmt.Errorf("invalid volume specification: '%s': too many colons", text)
	}
	bad := func(why string) (runner.Mount, error) {
		return runner.Mount{}, fmt.Errorf("invalid volume specification: '%s': %s; write -v /DIR:/DIR or -v /DIR:/DIR:ro", text, why)
	}
	if len(part) == 1 {
		return bad("it needs a source and a target, as anonymous volumes do not exist yet")
	}
	source := part[0]
	if strings.HasPrefix(source, ".") { // as docker, from this directory
		var err error
		if source, err = filepath.Abs(source); err != nil {
			return runner.Mount{}, err
		}
	}
	m := runner.Mount{Source: filepath.Clean(source), Target: filepath.Clean(part[1])}
	if !filepath.IsAbs(source) {
		return bad("the source is not an absolute path, and named volumes do not exist yet")
	}
	if err := checkTarget(part[1]); err != nil {
		return bad(fmt.Sprintf("invalid mount config for type \"bind\": %s", err))
	}
	if len(part) < 3 {
		return m, nil
	}
	var err error
	m.ReadOnly, err = parseVolumeMode(part[2])
	return m, err
}

// parseVolumeMode reads what docker takes. Labels are of SELinux, of which nothing is
// asked here, and consistency is of other systems; what is mounted later is not shared.
func parseVolumeMode(text string) (readOnly bool, err error) {
	access := 0
	for word := range strings.SplitSeq(text, ",") {
		switch word {
		case "ro", "readonly":
			readOnly = true
			access++
		case "rw":
			access++
		case "z", "Z", "cached", "delegated", "consistent", "rprivate", "private":
		default:
			return false, fmt.Errorf("invalid mode: %s", text)
		}
	}
	if access > 1 {
		return false, fmt.Errorf("invalid mode: %s", text)
	}
	return readOnly, nil
}

func makeSource(path string) error {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(path, 0o755)
	}
	return err
}
