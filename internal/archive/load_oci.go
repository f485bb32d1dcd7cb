package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/varvefs/varve/layerdb"
)

// Docker's names for what OCI has names of its own for.
const (
	dockerListType     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifestType = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfigType   = "application/vnd.docker.container.image.v1+json"
)

// maxNested is how deep indexes may lie in each other: index.json, the index of an
// image for several platforms, and one to spare.
const maxNested = 3

// ociImages reads the images of an index.json that this machine can run.
func (e *entries) ociImages() ([]LoadImage, error) {
	if e.has(v1.ImageLayoutFile) {
		var layout v1.ImageLayout
		if err := e.parseMeta(v1.ImageLayoutFile, &layout); err != nil {
			return nil, err
		}
		if layout.Version != v1.ImageLayoutVersion {
			return nil, fmt.Errorf("the archive is an OCI layout of version %s, and varve knows %s", quote(layout.Version), v1.ImageLayoutVersion)
		}
	}
	raw, err := e.read(v1.ImageIndexFile, maxMeta)
	if err != nil {
		return nil, err
	}
	index, err := ParseIndex(raw, "")
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", v1.ImageIndexFile, err)
	}
	return e.ociIndex(index)
}

// ociIndex reads the images of index.json, each an image or an index for several
// platforms.
func (e *entries) ociIndex(index v1.Index) ([]LoadImage, error) {
	if len(index.Manifests) > maxImages {
		return nil, fmt.Errorf("%w: more than %d images", ErrTooBig, maxImages)
	}
	var list []LoadImage
	var others []error
	for _, d := range index.Manifests {
		if isAttestation(d) {
			continue
		}
		image, err := e.ociImage(d, maxNested)
		if errors.Is(err, ErrPlatform) && len(index.Manifests) > 1 {
			others = append(others, err)
			continue
		}
		if err == nil {
			image.Refs, err = refsOf(d.Annotations)
		}
		if err == nil {
			list, err = addImage(list, image)
		}
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", quote(d.Digest.String()), err)
		}
	}
	if len(list) == 0 {
		return nil, errors.Join(others...)
	}
	return list, nil
}

// ociImage reads the image of a descriptor.
func (e *entries) ociImage(d v1.Descriptor, depth int) (LoadImage, error) {
	if d.Platform != nil && !ours(*d.Platform) {
		return LoadImage{}, checkPlatform(*d.Platform)
	}
	switch d.MediaType {
	case v1.MediaTypeImageIndex, dockerListType:
		return e.ociNested(d, depth)
	case v1.MediaTypeImageManifest, dockerManifestType:
	default:
		return LoadImage{}, fmt.Errorf("%w %s: it is neither an image nor an index of images", ErrMediaType, quote(d.MediaType))
	}
	raw, err := e.readBlob(d, maxMeta)
	if err != nil {
		return LoadImage{}, err
	}
	m, err := ParseManifest(raw, d.MediaType)
	if err != nil {
		return LoadImage{}, err
	}
	config, err := e.readBlob(m.Config, maxConfig)
	if err != nil {
		return LoadImage{}, err
	}
	image, err := newLoadImage(config, len(m.Layers))
	if err != nil {
		return LoadImage{}, err
	}
	for i, l := range m.Layers {
		if image.Layers[i], err = e.ociLayer(l, image.Layers[i].DiffID); err != nil {
			return LoadImage{}, err
		}
	}
	return image, nil
}

// ociNested reads the image for this machine of an index of one image.
func (e *entries) ociNested(d v1.Descriptor, depth int) (LoadImage, error) {
	if depth == 0 {
		return LoadImage{}, fmt.Errorf("%w: its indexes lie deeper than %d in each other", ErrTooBig, maxNested)
	}
	raw, err := e.readBlob(d, maxMeta)
	if err != nil {
		return LoadImage{}, err
	}
	index, err := ParseIndex(raw, d.MediaType)
	if err != nil {
		return LoadImage{}, err
	}
	child, err := ForThisMachine(index)
	if err != nil {
		return LoadImage{}, err
	}
	return e.ociImage(child, depth-1)
}

// ociLayer finds the layer of a descriptor.
func (e *entries) ociLayer(d v1.Descriptor, diffID digest.Digest) (l LoadLayer, err error) {
	if err := CheckLayerType(d.MediaType); err != nil {
		return l, err
	}
	l.Blob = Blob{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, DiffID: diffID}
	if l.at, err = e.blob(d.Digest); err != nil {
		return l, fmt.Errorf("layer: %w", err)
	}
	if l.at.size != d.Size {
		return l, sizeMismatch(d, l.at.size)
	}
	return l, nil
}

func sizeMismatch(d v1.Descriptor, got int64) error {
	return fmt.Errorf("%w: blob %s has %d bytes, and its descriptor says %d", ErrMismatch, d.Digest, got, d.Size)
}

// readBlob returns a small blob, checked against its descriptor.
func (e *entries) readBlob(d v1.Descriptor, most int64) ([]byte, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	raw, err := e.read(blobName(d.Digest), most)
	if err != nil {
		return nil, err
	}
	return raw, CheckBlob(d, raw)
}

// CheckBlob tells whether raw is what the descriptor says.
func CheckBlob(d v1.Descriptor, raw []byte) error {
	if int64(len(raw)) != d.Size {
		return sizeMismatch(d, int64(len(raw)))
	}
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	if got := digest.FromBytes(raw); got != d.Digest {
		return fmt.Errorf("%w: blob %s has the digest %s", ErrMismatch, d.Digest, got)
	}
	return nil
}

// document is what an index and a manifest have of which only one may have it
// (CVE-2021-41190: a document that is both is read as one by the one and as the
// other by the other).
type document struct {
	SchemaVersion int
	MediaType     string
	Manifests     json.RawMessage
	Config        json.RawMessage
	Layers        json.RawMessage
	FSLayers      json.RawMessage
}

// ParseIndex reads an index of the media type that its descriptor says, "" where
// there is none, and refuses one that could also be read as something else.
func ParseIndex(raw []byte, mediaType string) (v1.Index, error) {
	var index v1.Index
	var doc document
	if err := parseBoth(raw, &doc, &index); err != nil {
		return index, fmt.Errorf("read an index: %w", err)
	}
	switch {
	case doc.MediaType != "" && mediaType != "" && doc.MediaType != mediaType:
		return index, bothTypes(doc.MediaType, mediaType)
	case doc.MediaType != "" && doc.MediaType != v1.MediaTypeImageIndex && doc.MediaType != dockerListType:
		return index, fmt.Errorf("%w %s: it should be an index", ErrMediaType, quote(doc.MediaType))
	case doc.Config != nil, doc.Layers != nil, doc.FSLayers != nil, doc.Manifests == nil:
		return index, fmt.Errorf("%w: what should be an index has the parts of a manifest", ErrMediaType)
	}
	return index, checkSchema(doc)
}

// ParseManifest does for a manifest what [ParseIndex] does for an index. The
// config of what it returns is an image's.
func ParseManifest(raw []byte, mediaType string) (v1.Manifest, error) {
	var manifest v1.Manifest
	var doc document
	if err := parseBoth(raw, &doc, &manifest); err != nil {
		return manifest, fmt.Errorf("read a manifest: %w", err)
	}
	switch {
	case doc.MediaType != "" && doc.MediaType != mediaType:
		return manifest, bothTypes(doc.MediaType, mediaType)
	case doc.Manifests != nil, doc.FSLayers != nil, doc.Config == nil:
		return manifest, fmt.Errorf("%w: what should be a manifest has the parts of an index", ErrMediaType)
	case manifest.Config.MediaType != v1.MediaTypeImageConfig && manifest.Config.MediaType != dockerConfigType:
		return manifest, fmt.Errorf("%w %s: this is no image to run", ErrMediaType, quote(manifest.Config.MediaType))
	}
	return manifest, checkSchema(doc)
}

func parseBoth(raw []byte, doc *document, out any) error {
	if err := json.Unmarshal(raw, doc); err != nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

func bothTypes(inside, outside string) error {
	return fmt.Errorf("%w: it says %s itself, and its descriptor says %s", ErrMediaType, quote(inside), quote(outside))
}

func checkSchema(doc document) error {
	if doc.SchemaVersion != 2 {
		return fmt.Errorf("%w: its schema is version %d, and only 2 is known", ErrMediaType, doc.SchemaVersion)
	}
	return nil
}

// ForThisMachine chooses the image of an index that this machine can run: the
// first, if there are several.
func ForThisMachine(index v1.Index) (v1.Descriptor, error) {
	var platforms []string
	for _, d := range index.Manifests {
		if isAttestation(d) {
			continue
		}
		if d.Platform == nil || ours(*d.Platform) {
			return d, nil
		}
		platforms = append(platforms, d.Platform.OS+"/"+d.Platform.Architecture)
	}
	return v1.Descriptor{}, fmt.Errorf("%w: it is for %s", ErrPlatform, strings.Join(slices.Compact(platforms), ", "))
}

// isAttestation tells what buildkit puts beside an image, of which it says so.
func isAttestation(d v1.Descriptor) bool {
	_, ok := d.Annotations["vnd.docker.reference.type"]
	return ok || d.Platform != nil && d.Platform.OS == "unknown"
}

// refsOf are the names of an image by its annotations. Docker, containerd and
// podman write the whole name; a bare word is the tag of a repository that is not
// told, as umoci writes it, and no name.
func refsOf(annotations map[string]string) ([]string, error) {
	name := annotations[imageNameKey]
	if name == "" {
		name = annotations[v1.AnnotationRefName]
		if !strings.ContainsAny(name, "/:") {
			return nil, nil
		}
	}
	if strings.Contains(name, "@") { // by digest: no tag
		return nil, nil
	}
	ref, err := layerdb.ParseRef(name)
	if err != nil {
		return nil, fmt.Errorf("name: %w", err)
	}
	return []string{ref}, nil
}
