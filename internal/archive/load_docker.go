package archive

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/varvefs/varve/layerdb"
)

// manifestName is the file in which docker save lists the images of an archive.
const manifestName = "manifest.json"

// dockerImages reads the images of a manifest.json.
func (e *entries) dockerImages() ([]LoadImage, error) {
	var manifests []dockerManifest
	if err := e.parseMeta(manifestName, &manifests); err != nil {
		return nil, err
	}
	var list []LoadImage
	for _, m := range manifests {
		image, err := e.dockerImage(m)
		if err == nil {
			list, err = addImage(list, image)
		}
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", quote(strings.Join(m.RepoTags, ", ")), err)
		}
	}
	return list, nil
}

func (e *entries) dockerImage(m dockerManifest) (LoadImage, error) {
	config, err := e.read(m.Config, maxConfig)
	if err != nil {
		return LoadImage{}, err
	}
	if want := digestInName(m.Config); want != "" && want != digest.FromBytes(config) {
		return LoadImage{}, fmt.Errorf("%w: the config %s has the digest %s", ErrMismatch, quote(m.Config), digest.FromBytes(config))
	}
	image, err := newLoadImage(config, len(m.Layers))
	if err != nil {
		return LoadImage{}, err
	}
	for i, name := range m.Layers {
		l := &image.Layers[i]
		if l.at, err = e.find(name); err != nil {
			return LoadImage{}, err
		}
		l.Size = l.at.size
		if strings.HasPrefix(name, "blobs/") {
			l.Digest = digestInName(name)
		}
	}
	for _, tag := range m.RepoTags {
		ref, err := layerdb.ParseRef(tag)
		if err != nil {
			return LoadImage{}, err
		}
		image.Refs = append(image.Refs, ref)
	}
	return image, nil
}

// digestInName is the digest that a file is called by, as "blobs/sha256/HEX" or
// "HEX.json"; "" if it has another name. In the second form only a config's name
// is the digest of its bytes: for a layer docker wrote an ID it had made up.
func digestInName(name string) digest.Digest {
	_, base := splitName(name)
	d := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(base, ".json"))
	if d.Validate() != nil {
		return ""
	}
	return d
}
