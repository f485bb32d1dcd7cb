package archive

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/varvefs/varve/layerdb"
)

// ErrHostLayer is wrapped when an image stands on the files of this machine,
// which no archive can hold.
var ErrHostLayer = errors.New("the image stands on this machine's own files")

// SaveImage is one image for [Save].
type SaveImage struct {
	// Refs are the names it is saved under, "mine:1" or in full; none is allowed.
	Refs []string
	// Config is the OCI image config, its exact bytes.
	Config []byte
	// Layers are the image's, the lowest first, without those that are Empty.
	Layers []layerdb.Layer
}

// Save writes to w one tar that is both an OCI image layout and what docker load
// reads (the form of docker save since version 25): oci-layout, index.json,
// manifest.json, repositories, and under blobs/sha256/ the configs, manifests and uncompressed
// layers, each once. The same images in the same order give the same bytes. Each
// layer is checked against its digest while it is written; after any error what w
// got is to be thrown away.
func Save(w io.Writer, store *layerdb.Store, images []SaveImage) error {
	s := &saver{store: store, known: map[digest.Digest]bool{}, repositories: map[string]map[string]string{}}
	for _, image := range images {
		if err := s.add(image); err != nil {
			return err
		}
	}
	out := bufio.NewWriterSize(w, chunkSize)
	s.tar = tar.NewWriter(out)
	if err := s.write(); err != nil {
		return err
	}
	if err := errors.Join(s.tar.Close(), out.Flush()); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	return nil
}

// saver collects what an archive of images says about itself, and then writes it.
type saver struct {
	store    *layerdb.Store
	tar      *tar.Writer
	index    v1.Index
	manifest []dockerManifest
	// repositories is what docker before 1.10 read: repository, tag, top layer.
	repositories map[string]map[string]string
	known        map[digest.Digest]bool // what small and layers have already
	small        [][]byte               // configs and manifests
	layers       []v1.Descriptor
}

// dockerManifest is one image in manifest.json, as docker load reads it.
type dockerManifest struct {
	Config       string
	RepoTags     []string
	Layers       []string
	LayerSources map[digest.Digest]v1.Descriptor `json:",omitempty"`
}

// repositoriesName is the file with the names alone.
const repositoriesName = "repositories"

// The annotations by which containerd and docker find an image's name.
const imageNameKey = "io.containerd.image.name"

// add takes one image into the lists.
func (s *saver) add(image SaveImage) error {
	layers, err := s.addLayers(image)
	if err != nil {
		return err
	}
	config := s.addData(v1.MediaTypeImageConfig, image.Config)
	manifest, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config, Layers: layers,
	})
	if err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	docker := dockerManifest{Config: blobName(config.Digest), Layers: []string{}, LayerSources: map[digest.Digest]v1.Descriptor{}}
	for _, l := range layers {
		docker.Layers = append(docker.Layers, blobName(l.Digest))
		docker.LayerSources[l.Digest] = l
	}
	descriptor := s.addData(v1.MediaTypeImageManifest, manifest)
	docker.RepoTags, err = s.name(descriptor, image.Refs, topOf(layers))
	s.manifest = append(s.manifest, docker)
	return err
}

// addLayers describes the layers of an image, after a check that they are those
// that its config speaks of.
func (s *saver) addLayers(image SaveImage) ([]v1.Descriptor, error) {
	var config v1.Image
	if err := json.Unmarshal(image.Config, &config); err != nil {
		return nil, fmt.Errorf("read the image's config: %w", err)
	}
	layers := []v1.Descriptor{}
	var ids []digest.Digest
	for _, l := range image.Layers {
		if l.Host {
			return nil, fmt.Errorf("%w: use export, which writes all files of one container to a tar", ErrHostLayer)
		}
		ids = append(ids, l.DiffID)
		d, err := s.addLayer(l.DiffID)
		if err != nil {
			return nil, err
		}
		layers = append(layers, d)
	}
	if !slices.Equal(ids, config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("the image has the layers %v, but its config says %v", ids, config.RootFS.DiffIDs)
	}
	return layers, nil
}

func (s *saver) addLayer(id digest.Digest) (v1.Descriptor, error) {
	if err := id.Validate(); err != nil {
		return v1.Descriptor{}, fmt.Errorf("layer %q: %w", id, err)
	}
	size, err := TarSize(s.store.LayerDir(id))
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: id, Size: size}
	if !s.known[id] {
		s.known[id] = true
		s.layers = append(s.layers, d)
	}
	return d, nil
}

func (s *saver) addData(mediaType string, data []byte) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if !s.known[d.Digest] {
		s.known[d.Digest] = true
		s.small = append(s.small, data)
	}
	return d
}

// topOf is the digest of the top layer in hexadecimal digits, "" of no layers.
func topOf(layers []v1.Descriptor) string {
	if len(layers) == 0 {
		return ""
	}
	return layers[len(layers)-1].Digest.Encoded()
}

// name puts the image with this top layer into the index under each name, or once
// without.
func (s *saver) name(d v1.Descriptor, refs []string, top string) (familiar []string, err error) {
	for _, ref := range refs {
		full, err := layerdb.ParseRef(ref)
		if err != nil {
			return nil, fmt.Errorf("image name %w", err)
		}
		repo, tag := layerdb.RepoTag(full)
		d.Annotations = map[string]string{imageNameKey: full, v1.AnnotationRefName: tag}
		s.index.Manifests = append(s.index.Manifests, d)
		familiar = append(familiar, repo+":"+tag)
		if s.repositories[repo] == nil {
			s.repositories[repo] = map[string]string{}
		}
		s.repositories[repo][tag] = top
	}
	if len(refs) == 0 {
		s.index.Manifests = append(s.index.Manifests, d)
	}
	return familiar, nil
}

func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// write puts what describes the rest first, for those who read a pipe.
func (s *saver) write() error {
	s.index.SchemaVersion, s.index.MediaType = 2, v1.MediaTypeImageIndex
	if s.index.Manifests == nil {
		s.index.Manifests = []v1.Descriptor{}
	}
	for _, file := range []struct {
		name  string
		value any
	}{
		{v1.ImageLayoutFile, v1.ImageLayout{Version: v1.ImageLayoutVersion}},
		{v1.ImageIndexFile, s.index},
		{manifestName, s.manifest},
		{repositoriesName, s.repositories},
	} {
		if file.name == repositoriesName && len(s.repositories) == 0 {
			continue // as docker does
		}
		data, err := json.Marshal(file.value)
		if err != nil {
			return fmt.Errorf("write %s: %w", file.name, err)
		}
		if err := s.file(file.name, data); err != nil {
			return err
		}
	}
	return s.writeBlobs()
}

func (s *saver) writeBlobs() error {
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := s.header(dir, tar.TypeDir, 0o755, 0); err != nil {
			return err
		}
	}
	for _, data := range s.small {
		if err := s.file(blobName(digest.FromBytes(data)), data); err != nil {
			return err
		}
	}
	for _, l := range s.layers {
		if err := s.header(blobName(l.Digest), tar.TypeReg, 0o644, l.Size); err != nil {
			return err
		}
		if err := WriteLayer(s.tar, s.store.LayerDir(l.Digest), l.Digest); err != nil {
			return err
		}
	}
	return nil
}

func (s *saver) file(name string, data []byte) error {
	if err := s.header(name, tar.TypeReg, 0o644, int64(len(data))); err != nil {
		return err
	}
	if _, err := s.tar.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func (s *saver) header(name string, kind byte, mode, size int64) error {
	err := s.tar.WriteHeader(&tar.Header{
		Typeflag: kind, Name: name, Mode: mode, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
