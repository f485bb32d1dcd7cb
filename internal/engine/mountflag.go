package engine

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/runner"
)

// setNetwork reads docker's --network.
func setNetwork(b *container.Sandbox, i Isolation) error {
	name := i.Network
	switch {
	case name == "":
	case name == "host":
		b.HostNetwork = true
	case name == "none":
		b.NoNetwork = true
	case checkMode(name):
		b.Network = name
	default:
		return fmt.Errorf("network %s not found: there are none, host and container:NAME", name)
	}
	naming := i.Naming
	for what, asked := range map[string]bool{"hostname": i.Hostname != "", "custom host-to-IP mapping": len(naming.ExtraHosts) > 0,
		"dns": len(naming.DNS)+len(naming.DNSSearch)+len(naming.DNSOptions) > 0} {
		if asked && b.Network != "" {
			return fmt.Errorf("conflicting options: %s and the network mode", what)
		}
	}
	return nil
}

// setMounts reads --tmpfs and --mount.
func setMounts(b *container.Sandbox, i Isolation) error {
	for _, text := range i.Tmpfs {
		target, options, _ := strings.Cut(text, ":")
		if err := checkTarget(target); err != nil {
			return err
		}
		t := runner.Tmpfs{Target: filepath.Clean(target)}
		if options != "" {
			t.Options = strings.Split(options, ",")
		}
		same := func(other runner.Tmpfs) bool { return other.Target == t.Target }
		b.Tmpfs = append(slices.DeleteFunc(b.Tmpfs, same), t) // docker takes the last
	}
	for _, text := range i.MountSpecs {
		m, err := parseMount(text)
		if err != nil {
			return fmt.Errorf("invalid argument %q for \"--mount\" flag: %w", text, err)
		}
		if err := addMount(b, m); err != nil {
			return fmt.Errorf("invalid mount config for type %q: %w", m.kind, err)
		}
	}
	return nil
}

// checkTarget refuses a place that nothing can be mounted on.
func checkTarget(target string) error {
	if !filepath.IsAbs(target) {
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", target)
	}
	if filepath.Clean(target) == "/" {
		return errors.New("invalid specification: destination can't be '/'")
	}
	return nil
}

// checkTargets refuses two mounts on one place.
func checkTargets(mounts []runner.Mount, tmpfs []runner.Tmpfs) error {
	seen := map[string]bool{}
	add := func(target string) error {
		if seen[target] {
			return fmt.Errorf("duplicate mount point: %s", target)
		}
		seen[target] = true
		return nil
	}
	for _, m := range mounts {
		if err := add(m.Target); err != nil {
			return err
		}
	}
	for _, t := range tmpfs {
		if err := add(t.Target); err != nil {
			return err
		}
	}
	return nil
}

// mountWish is what a --mount says.
type mountWish struct {
	kind, source, target string
	readOnly             bool
	nonRecursive         bool
	propagation          string
	tmpfs                []string // options
}

// CheckMount refuses a --mount that is not written as docker has it.
func CheckMount(text string) error {
	_, err := parseMount(text)
	return err
}

// parseMount reads docker's KEY=VALUE,… of one mount, a line of CSV.
func parseMount(text string) (mountWish, error) {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return mountWish{}, err
	}
	m := mountWish{kind: "volume"}
	bind, tmpfs := false, false
	for _, field := range fields {
		key, value, has := strings.Cut(field, "=")
		key = strings.ToLower(key)
		if !has {
			if !slices.Contains([]string{"readonly", "ro", "bind-nonrecursive", "volume-nocopy"}, key) {
				return m, fmt.Errorf("invalid field '%s' must be a key=value pair", field)
			}
			value = "true"
		}
		bind = bind || strings.HasPrefix(key, "bind-")
		tmpfs = tmpfs || strings.HasPrefix(key, "tmpfs-")
		known, err := m.set(key, value)
		if !known {
			return m, fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
		if err != nil {
			return m, fmt.Errorf("invalid value for %s: %s", key, value)
		}
	}
	switch {
	case m.target == "":
		return m, errors.New("target is required")
	case bind && m.kind != "bind":
		return m, fmt.Errorf("cannot mix 'bind-*' options with mount type '%s'", m.kind)
	case tmpfs && m.kind != "tmpfs":
		return m, fmt.Errorf("cannot mix 'tmpfs-*' options with mount type '%s'", m.kind)
	}
	return m, nil
}

// set takes one field.
func (m *mountWish) set(key, value string) (known bool, err error) {
	switch key {
	case "type":
		m.kind = strings.ToLower(value)
	case "source", "src":
		m.source = value
	case "target", "dst", "destination":
		m.target = value
	case "readonly", "ro":
		m.readOnly, err = strconv.ParseBool(value)
	case "consistency": // of other systems
	case "bind-propagation":
		m.propagation = strings.ToLower(value)
	case "bind-nonrecursive":
		m.nonRecursive, err = strconv.ParseBool(value)
	case "bind-recursive":
		switch value {
		case "enabled", "writable", "readonly": // what is read-only here is so below, too
		case "disabled":
			m.nonRecursive = true
		default:
			err = strconv.ErrSyntax
		}
	case "tmpfs-size":
		var size int64
		size, err = units.RAMInBytes(value)
		m.tmpfs = append(m.tmpfs, "size="+strconv.FormatInt(size, 10))
	case "tmpfs-mode":
		_, err = strconv.ParseUint(value, 8, 32)
		m.tmpfs = append(m.tmpfs, "mode="+value)
	default:
		return false, nil
	}
	return true, err
}

// addMount takes a mount. Unlike -v it makes no source.
func addMount(b *container.Sandbox, m mountWish) error {
	if err := checkTarget(m.target); err != nil {
		return err
	}
	target := filepath.Clean(m.target)
	switch m.kind {
	case "tmpfs":
		if m.source != "" {
			return errors.New("field Source must not be specified")
		}
		if m.readOnly {
			m.tmpfs = append(m.tmpfs, "ro")
		}
		b.TmpfsMounts = append(b.TmpfsMounts, runner.Tmpfs{Target: target, Options: m.tmpfs})
	case "bind":
		if err := m.checkSource(); err != nil {
			return err
		}
		b.Mounts = append(b.Mounts, runner.Mount{
			Source: filepath.Clean(m.source), Target: target, ReadOnly: m.readOnly, NonRecursive: m.nonRecursive,
		})
	case "volume":
		return errors.New("volumes do not exist yet: there are bind and tmpfs")
	default:
		return errors.New("mount type unknown: there are bind and tmpfs")
	}
	return nil
}

// checkSource refuses a source that docker refuses, and propagation, as what is mounted
// later is not shared.
func (m *mountWish) checkSource() error {
	switch {
	case m.source == "":
		return errors.New("field Source must not be empty")
	case !filepath.IsAbs(m.source):
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", m.source)
	case !slices.Contains([]string{"", "rprivate", "private"}, m.propagation):
		return fmt.Errorf("invalid propagation mode: %s: there are rprivate and private", m.propagation)
	}
	_, err := os.Stat(m.source)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("bind source path does not exist: %s", m.source)
	}
	return err
}
