package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/varvefs/varve/runner"
)

// setNetwork reads docker's --network.
func (b *Sandbox) setNetwork(name string) error {
	switch name {
	case "":
	case "host":
		b.HostNetwork = true
	case "none":
		b.NoNetwork = true
	default:
		return fmt.Errorf("network %s not found: there are none and host", name)
	}
	return nil
}

// setMounts reads --tmpfs and --mount.
func (b *Sandbox) setMounts(i Isolation) error {
	seen := map[string]bool{}
	add := func(target string) error {
		if seen[target] {
			return fmt.Errorf("duplicate mount point: %s", target)
		}
		seen[target] = true
		return nil
	}
	for _, text := range i.Tmpfs {
		target, options, _ := strings.Cut(text, ":")
		if !filepath.IsAbs(target) {
			return fmt.Errorf("invalid --tmpfs %q: write --tmpfs /DIR or --tmpfs /DIR:size=64m", text)
		}
		t := runner.Tmpfs{Target: filepath.Clean(target)}
		if options != "" {
			t.Options = strings.Split(options, ",")
		}
		b.Tmpfs = append(b.Tmpfs, t)
	}
	for _, text := range i.MountSpecs {
		if err := b.addMount(text); err != nil {
			return fmt.Errorf("invalid argument %q for --mount: %w", text, err)
		}
	}
	for _, t := range b.Tmpfs {
		if err := add(t.Target); err != nil {
			return err
		}
	}
	for _, m := range b.Mounts {
		if err := add(m.Target); err != nil {
			return err
		}
	}
	return nil
}

// addMount reads docker's KEY=VALUE,… of one mount. Unlike -v it makes no source.
func (b *Sandbox) addMount(text string) error {
	value := map[string]string{"type": "volume"}
	for field := range strings.SplitSeq(text, ",") {
		key, v, has := strings.Cut(field, "=")
		switch key {
		case "src":
			key = "source"
		case "dst", "destination":
			key = "target"
		case "ro":
			key = "readonly"
		}
		switch key {
		case "readonly":
			if !has {
				v = "true"
			}
			if v != "true" && v != "false" && v != "1" && v != "0" {
				return fmt.Errorf("invalid value for readonly: %s", v)
			}
		case "type", "source", "target", "tmpfs-size", "tmpfs-mode":
			if !has {
				return fmt.Errorf("invalid field '%s' must be a key=value pair", field)
			}
		default:
			return fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
		value[key] = v
	}
	if value["target"] == "" {
		return fmt.Errorf("target is required")
	}
	if !filepath.IsAbs(value["target"]) {
		return fmt.Errorf("the target is not an absolute path")
	}
	return b.addMountOf(value)
}

func (b *Sandbox) addMountOf(value map[string]string) error {
	target := filepath.Clean(value["target"])
	readOnly := value["readonly"] == "true" || value["readonly"] == "1"
	switch value["type"] {
	case "tmpfs":
		t := runner.Tmpfs{Target: target}
		for key, option := range map[string]string{"tmpfs-size": "size=", "tmpfs-mode": "mode="} {
			if v := value[key]; v != "" {
				t.Options = append(t.Options, option+v)
			}
		}
		if readOnly {
			t.Options = append(t.Options, "ro")
		}
		b.Tmpfs = append(b.Tmpfs, t)
	case "bind":
		source := value["source"]
		if !filepath.IsAbs(source) {
			return fmt.Errorf("the source is not an absolute path")
		}
		if _, err := os.Stat(source); err != nil {
			return fmt.Errorf("bind source path does not exist: %s", source)
		}
		b.Mounts = append(b.Mounts, runner.Mount{Source: filepath.Clean(source), Target: target, ReadOnly: readOnly})
	default:
		return fmt.Errorf("the type %s is not there: there are bind and tmpfs", value["type"])
	}
	return nil
}
