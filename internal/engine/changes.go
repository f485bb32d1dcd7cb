package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// applyChanges applies Dockerfile instructions (-c) to a configuration: CMD,
// ENTRYPOINT, ENV, LABEL, USER, WORKDIR, STOPSIGNAL, EXPOSE and VOLUME.
func applyChanges(config *v1.ImageConfig, changes []string) error {
	for _, change := range changes {
		if err := applyChange(config, change); err != nil {
			return fmt.Errorf("change %q: %w", change, err)
		}
	}
	return nil
}

func applyChange(config *v1.ImageConfig, change string) error {
	word, rest, _ := strings.Cut(strings.TrimSpace(change), " ")
	rest = strings.TrimSpace(rest)
	if rest == "" {
		return errors.New("an instruction and its value are needed, as in 'CMD [\"sh\"]'")
	}
	switch strings.ToUpper(word) {
	case "CMD":
		config.Cmd = commandForm(rest)
	case "ENTRYPOINT":
		config.Entrypoint = commandForm(rest)
	case "ENV":
		config.Env = mergeEnv(config.Env, []string{pair(rest)})
	case "LABEL":
		key, value, _ := strings.Cut(pair(rest), "=")
		config.Labels = withKey(config.Labels, key, value)
	case "USER":
		config.User = rest
	case "WORKDIR":
		config.WorkingDir = path.Join("/", config.WorkingDir, rest)
		if path.IsAbs(rest) {
			config.WorkingDir = path.Clean(rest)
		}
	case "STOPSIGNAL":
		config.StopSignal = rest
	case "EXPOSE":
		config.ExposedPorts = withKey(config.ExposedPorts, rest, struct{}{})
	case "VOLUME":
		config.Volumes = withKey(config.Volumes, rest, struct{}{})
	default:
		return fmt.Errorf("%s is not a valid change command", word)
	}
	return nil
}

// commandForm reads '["a", "b"]' as a list, anything else as a shell's line.
func commandForm(text string) []string {
	var list []string
	if strings.HasPrefix(text, "[") && json.Unmarshal([]byte(text), &list) == nil {
		return list
	}
	return []string{"/bin/sh", "-c", text}
}

// pair reads both forms of ENV and LABEL, "A=b" and "A b", with or without
// quotes around the value.
func pair(text string) string {
	key, value, has := strings.Cut(text, "=")
	if !has || strings.Contains(key, " ") {
		key, value, _ = strings.Cut(text, " ")
	}
	value = strings.TrimSpace(value)
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	return key + "=" + value
}

func withKey[V any](m map[string]V, key string, value V) map[string]V {
	if m == nil {
		m = map[string]V{}
	}
	m[key] = value
	return m
}
