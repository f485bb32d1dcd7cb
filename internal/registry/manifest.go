package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The bounds of what is read into memory. A manifest of 4 MiB is what registries
// allow; no honest image has a thousand layers.
const (
	maxManifest = 4 << 20
	maxConfig   = 4 << 20
	maxLayers   = 1000
	maxNesting  = 3 // of indexes in indexes
)

// docker's media types, which are those of OCI under their first names.
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList         = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig       = "application/vnd.docker.container.image.v1+json"
	dockerSchema1      = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchemaSigned = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// acceptable is what a manifest may be.
func acceptable() string {
	return strings.Join([]string{v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, dockerList, dockerManifest}, ", ")
}

// A Manifest says what an image consists of, and has been checked: it is one
// manifest and nothing else, of an image that can be run, and everything in it has a
// size and a digest that can be verified. The media types of its layers are not
// looked at.
type Manifest struct {
	v1.Manifest
	// Digest is that of the manifest's own bytes.
	Digest digest.Digest
	// Named is what the tag or digest stands for in the registry: Digest, or that
	// of the index in which the manifest was found.
	Named digest.Digest
}

// raw is a manifest or an index as it came.
type raw struct {
	data      []byte
	digest    digest.Digest
	mediaType string
}

// Manifest reads the manifest that reference, a tag or a digest, stands for, and
// where that is an index, that of the platform in it: "linux/arm64", "linux/arm/v7",
// "" for this machine's. The errors wrap ErrNotFound, ErrDenied, ErrUnreachable,
// ErrCorrupt, ErrUnsupported or ErrPlatform.
func (r *Repository) Manifest(ctx context.Context, reference, platform string) (Manifest, error) {
	want, err := parsePlatform(platform)
	if err != nil {
		return Manifest{}, err
	}
	found, err := r.fetchManifest(ctx, reference)
	if err != nil {
		return Manifest{}, err
	}
	named := found.digest
	for depth := 0; isIndex(found.mediaType); depth++ {
		if depth == maxNesting {
			return Manifest{}, fmt.Errorf("%w: its indexes stand one in another, more than %d deep", ErrUnsupported, maxNesting)
		}
		entry, err := chooseFrom(found.data, want)
		if err != nil {
			return Manifest{}, fmt.Errorf("%s: %w", r.name, err)
		}
		if found, err = r.fetchManifest(ctx, entry.Digest.String()); err != nil {
			return Manifest{}, err
		}
		if int64(len(found.data)) != entry.Size || found.mediaType != entry.MediaType {
			return Manifest{}, fmt.Errorf("%w: a manifest of %d bytes and type %s, where the index says %d and %s",
				ErrCorrupt, len(found.data), found.mediaType, entry.Size, entry.MediaType)
		}
	}
	m, err := parseManifest(found)
	m.Named = named
	return m, err
}

func isIndex(mediaType string) bool {
	return mediaType == v1.MediaTypeImageIndex || mediaType == dockerList
}

// fetchManifest reads a manifest or an index, checks its bytes against the digest,
// if it was asked by one, and its type.
func (r *Repository) fetchManifest(ctx context.Context, reference string) (raw, error) {
	header, data, err := r.get(ctx, r.url("manifests", reference), acceptable(), maxManifest)
	if err != nil {
		return raw{}, err
	}
	found := raw{data: data, digest: digest.FromBytes(data)}
	if err := checkAsked(found.digest, reference, header); err != nil {
		return raw{}, err
	}
	found.mediaType, err = mediaTypeOf(header.Get("Content-Type"), data)
	return found, err
}

// checkAsked holds the digest of what came against the one that was asked for, or,
// for a tag, against the one that the registry claims.
func checkAsked(got digest.Digest, reference string, header http.Header) error {
	want := digest.Digest(reference)
	if !strings.Contains(reference, ":") { // a tag
		want = digest.Digest(header.Get("Docker-Content-Digest"))
		if checkDigest(want) != nil {
			return nil // no claim that could be checked
		}
	}
	if got != want {
		return fmt.Errorf("%w: a manifest with the digest %s instead of %s", ErrCorrupt, got, want)
	}
	return nil
}

// shape is as much of a manifest or an index as tells which of them it is.
type shape struct {
	MediaType string          `json:"mediaType"`
	Config    json.RawMessage `json:"config"`
	Layers    json.RawMessage `json:"layers"`
	Manifests json.RawMessage `json:"manifests"`
	FSLayers  json.RawMessage `json:"fsLayers"`
}

// mediaTypeOf decides what data is. The same bytes must not be an image to one
// reader and an index of others to another (CVE-2021-41190), so all that speaks
// about the type has to agree.
func mediaTypeOf(header string, data []byte) (string, error) {
	header, _, _ = strings.Cut(header, ";")
	header = strings.TrimSpace(header)
	var s shape
	if err := json.Unmarshal(data, &s); err != nil {
		return "", fmt.Errorf("%w: its manifest is no JSON: %w", ErrUnsupported, err)
	}
	asIndex, asImage := s.Manifests != nil, s.Config != nil || s.Layers != nil
	switch {
	case s.FSLayers != nil, header == dockerSchema1, header == dockerSchemaSigned:
		return "", fmt.Errorf("%w: its manifest is of schema 1, from before 2016: push it again with a docker of today", ErrUnsupported)
	case asIndex && asImage:
		return "", fmt.Errorf("%w: its manifest is that of an image and an index at once", ErrUnsupported)
	case s.MediaType != "" && s.MediaType != header:
		return "", fmt.Errorf("%w: its manifest says that it is %q, and the registry that it is %q", ErrUnsupported, s.MediaType, header)
	case asIndex && isIndex(header), asImage && isImage(header):
		return header, nil
	}
	return "", fmt.Errorf("%w: a manifest of the type %q", ErrUnsupported, header)
}

func isImage(mediaType string) bool {
	return mediaType == v1.MediaTypeImageManifest || mediaType == dockerManifest
}

// parseManifest reads an image's manifest and checks that it is one whose parts can
// be fetched and verified.
func parseManifest(found raw) (Manifest, error) {
	m := Manifest{Digest: found.digest}
	if err := json.Unmarshal(found.data, &m.Manifest); err != nil {
		return m, fmt.Errorf("%w: its manifest: %w", ErrUnsupported, err)
	}
	m.MediaType = found.mediaType
	if t := m.Config.MediaType; t != v1.MediaTypeImageConfig && t != dockerConfig {
		return m, fmt.Errorf("%w: it holds %q, which is no image to run", ErrUnsupported, t)
	}
	if len(m.Layers) > maxLayers {
		return m, fmt.Errorf("%w: it has %d layers, more than %d", ErrUnsupported, len(m.Layers), maxLayers)
	}
	if err := checkDescriptor(m.Config); err != nil {
		return m, err
	}
	for _, l := range m.Layers {
		if err := checkDescriptor(l); err != nil {
			return m, err
		}
	}
	return m, nil
}

func checkDescriptor(d v1.Descriptor) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("%w: its manifest says that %s has %d bytes", ErrUnsupported, d.Digest, d.Size)
	}
	return nil
}

// checkDigest refuses what is no sha256 in its one spelling, before it becomes a
// part of an address or a path (CVE-2024-3727).
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%w: %.80q is no sha256 digest", ErrUnsupported, string(d))
	}
	return nil
}

// Config reads the configuration of an image, whose bytes are verified.
func (r *Repository) Config(ctx context.Context, m Manifest) ([]byte, error) {
	if m.Config.Size > maxConfig {
		return nil, fmt.Errorf("%w: its configuration has %d bytes, more than %d", ErrUnsupported, m.Config.Size, maxConfig)
	}
	_, data, err := r.get(ctx, r.url("blobs", m.Config.Digest.String()), "", maxConfig)
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(data); got != m.Config.Digest || int64(len(data)) != m.Config.Size {
		return nil, fmt.Errorf("%w: a configuration of %d bytes with the digest %s instead of %d bytes with %s",
			ErrCorrupt, len(data), got, m.Config.Size, m.Config.Digest)
	}
	return data, nil
}
