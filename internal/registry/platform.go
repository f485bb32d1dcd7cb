package registry

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// parsePlatform reads "os/arch[/variant]"; "" is this machine's.
func parsePlatform(text string) (v1.Platform, error) {
	if text == "" {
		text = "linux/" + runtime.GOARCH
	}
	part := strings.Split(text, "/")
	if len(part) < 2 || len(part) > 3 || slices.Contains(part, "") {
		return v1.Platform{}, fmt.Errorf("%q is no platform: name it as in linux/arm64 or linux/arm/v7", text)
	}
	p := v1.Platform{OS: part[0], Architecture: part[1]}
	if len(part) == 3 {
		p.Variant = part[2]
	}
	return normal(p), nil
}

// normal leaves out the variant that is meant when none is said, and knows the other
// names of architectures, as docker does.
func normal(p v1.Platform) v1.Platform {
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	}
	switch {
	case p.Architecture == "arm64" && (p.Variant == "v8" || p.Variant == "8"), p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

// runs tells how well an image for have serves those who want want: 0 not at all,
// and more is better. A machine with a later variant runs an earlier one.
func runs(have, want v1.Platform) int {
	have = normal(have)
	switch {
	case have.OS != want.OS || have.Architecture != want.Architecture:
		return 0
	case have.Variant == want.Variant:
		return 100
	case have.Variant > want.Variant: // "v7" is later than "v6", and than none
		return 0
	case have.Variant == "":
		return 1
	}
	return 1 + int(have.Variant[len(have.Variant)-1]-'0')
}

// CheckPlatform refuses an image whose configuration is for another platform than
// the one that was asked for, "" for this machine's. The error wraps ErrPlatform.
func CheckPlatform(config v1.Image, platform string) error {
	want, err := parsePlatform(platform)
	if err != nil || runs(config.Platform, want) > 0 {
		return err
	}
	return fmt.Errorf("%w: it is for %s, not for %s; if it is what you want, name that with --platform",
		ErrPlatform, platformName(config.Platform), platformName(want))
}

func platformName(p v1.Platform) string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

// chooseFrom picks the manifest of an index that serves the platform best; of equals
// the first.
func chooseFrom(index []byte, want v1.Platform) (v1.Descriptor, error) {
	var list v1.Index
	if err := json.Unmarshal(index, &list); err != nil {
		return v1.Descriptor{}, fmt.Errorf("%w: its index: %w", ErrUnsupported, err)
	}
	best, points := v1.Descriptor{}, 0
	var others []string
	for _, d := range list.Manifests {
		if d.Platform == nil || !isImage(d.MediaType) && !isIndex(d.MediaType) {
			continue
		}
		if p := runs(*d.Platform, want); p > points {
			best, points = d, p
		}
		if name := platformName(*d.Platform); name != "unknown/unknown" { // an attestation
			others = append(others, name)
		}
	}
	if points == 0 {
		return v1.Descriptor{}, fmt.Errorf("%w: it has none for %s, but for %s", ErrPlatform, platformName(want), orNone(others))
	}
	return best, checkDescriptor(best)
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none at all"
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}
