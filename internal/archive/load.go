package archive

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/varvefs/varve/layerdb"
)

// maxImages bounds the images of one archive.
const maxImages = 1000

// Images is an archive of images that was opened for reading: what docker save,
// podman save (both formats), skopeo and umoci write. After OpenImages it may be used by
// several goroutines.
type Images struct {
	files  *entries
	closer func() error
	list   []LoadImage
}

// LoadImage is one image of an archive.
type LoadImage struct {
	Config []byte      // the exact bytes; ParseConfig has accepted them
	Refs   []string    // full references, in the archive's order; none is allowed
	Layers []LoadLayer // the lowest first, one for each diff ID

	config digest.Digest
}

// LoadLayer is a layer of an archive, and all that the archive says of it.
type LoadLayer struct {
	Blob
	at span
}

// OpenImages reads what an archive of images says of itself, and checks that it is
// consistent. file is read from its beginning if it is a regular file; a pipe or
// a compressed archive is first written to a stage of the store. file stays the
// caller's, and has to stay open until Close. The errors wrap ErrNotTar,
// ErrTruncated, ErrTooBig, ErrUnsafe, ErrMismatch, ErrMediaType or ErrPlatform.
func OpenImages(file *os.File, store *layerdb.Store) (*Images, error) {
	a := &Images{closer: func() error { return nil }}
	err := a.open(file, store)
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func (a *Images) open(file *os.File, store *layerdb.Store) error {
	seekable, err := isPlainFile(file)
	if err == nil && !seekable {
		file, err = a.spool(file, store)
	}
	if err != nil {
		return err
	}
	if a.files, err = readEntries(file); err != nil {
		return err
	}
	if err = a.read(); err != nil {
		return err
	}
	return a.checkNames()
}

// isPlainFile tells whether the file can be read in any order as it is.
func isPlainFile(file *os.File) (bool, error) {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return false, err
	}
	if at, err := file.Seek(0, io.SeekCurrent); err != nil || at != 0 {
		return false, err // a part of a stream, as of `{ read line; varve load; } < file`
	}
	e, err := detect(bufio.NewReaderSize(io.NewSectionReader(file, 0, 16), 16))
	return e == plain, err
}

// spool writes the plain bytes of r to a file in a stage.
func (a *Images) spool(r io.Reader, store *layerdb.Store) (*os.File, error) {
	stage, err := store.Stage("load")
	if err != nil {
		return nil, err
	}
	a.closer = stage.Discard
	file, err := os.OpenFile(filepath.Join(stage.Path(), "images.tar"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	a.closer = func() error { return errors.Join(file.Close(), stage.Discard()) }
	in, free, err := decompress(r)
	if err != nil {
		return nil, err
	}
	defer free()
	most := UnpackOptions{}.withDefaults().MaxBytes
	n, err := io.Copy(file, io.LimitReader(in, most+1))
	if err != nil {
		return nil, fmt.Errorf("read the archive: %w", cutShort(err))
	}
	if n > most {
		return nil, fmt.Errorf("%w: the uncompressed archive is too long", ErrTooBig)
	}
	return file, nil
}

// Close removes what was spooled.
func (a *Images) Close() error { return a.closer() }

// List returns the images in the order of the archive.
func (a *Images) List() []LoadImage { return a.list }

// Open returns the bytes of a layer as the archive has them, compressed or not.
func (a *Images) Open(l LoadLayer) io.Reader { return a.files.open(l.at) }

// Length is how many bytes that are.
func (l LoadLayer) Length() int64 { return l.at.size }

// read finds the images: in manifest.json, in index.json, or in both, which then
// have to say the same (CVE-2021-41190: what one program checked is not what
// another one would run).
func (a *Images) read() error {
	docker, oci := a.files.has(manifestName), a.files.has(v1.ImageIndexFile)
	var fromManifest, fromIndex []LoadImage
	var err error
	if docker {
		if fromManifest, err = a.files.dockerImages(); err != nil {
			return err
		}
	}
	if oci {
		if fromIndex, err = a.files.ociImages(); err != nil {
			return err
		}
	}
	switch {
	case docker && oci:
		a.list, err = agree(fromManifest, fromIndex)
	case docker:
		a.list = fromManifest
	case oci:
		a.list = fromIndex
	case a.files.has(repositoriesName):
		err = errors.New("the archive is of a docker before 1.10: load it there and save it again")
	default:
		err = errors.New("the archive has neither a manifest.json nor an index.json: it is no archive of images; 'varve import' makes an image of the tar of a root file system")
	}
	return err
}

// agree joins what manifest.json and index.json say. The descriptors of the latter
// say more of the layers; the former has all names.
func agree(fromManifest, fromIndex []LoadImage) ([]LoadImage, error) {
	disagree := func(what string, d digest.Digest) error {
		return fmt.Errorf("%w: manifest.json and index.json are not of the same images: %s %s", ErrMismatch, what, d)
	}
	list := slices.Clone(fromManifest)
	for i, m := range list {
		n := slices.IndexFunc(fromIndex, func(x LoadImage) bool { return x.config == m.config })
		if n < 0 {
			return nil, disagree("only the first has", m.config)
		}
		x := fromIndex[n]
		if !slices.EqualFunc(m.Layers, x.Layers, func(a, b LoadLayer) bool { return a.at == b.at }) {
			return nil, disagree("they differ in the layers of", m.config)
		}
		if len(x.Refs) > 0 && !sameSet(m.Refs, x.Refs) {
			return nil, disagree("they differ in the names of", m.config)
		}
		list[i].Layers = x.Layers
	}
	for _, x := range fromIndex {
		if !slices.ContainsFunc(list, func(m LoadImage) bool { return x.config == m.config }) {
			return nil, disagree("only the second has", x.config)
		}
	}
	return list, nil
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// addImage puts an image into a list, or its names to one that is there.
func addImage(list []LoadImage, image LoadImage) ([]LoadImage, error) {
	for i, other := range list {
		if other.config == image.config {
			for _, ref := range image.Refs {
				if !slices.Contains(list[i].Refs, ref) {
					list[i].Refs = append(list[i].Refs, ref)
				}
			}
			return list, nil
		}
	}
	if len(list) >= maxImages {
		return nil, fmt.Errorf("%w: more than %d images", ErrTooBig, maxImages)
	}
	return append(list, image), nil
}

// checkNames refuses two images of one name.
func (a *Images) checkNames() error {
	if len(a.list) == 0 {
		return errors.New("the archive has no image in it")
	}
	seen := map[string]bool{}
	for _, image := range a.list {
		for _, ref := range image.Refs {
			if seen[ref] {
				return fmt.Errorf("two images of the archive are called %s", layerdb.Familiar(ref))
			}
			seen[ref] = true
		}
	}
	return nil
}

// newLoadImage reads the config that an archive has for an image.
func newLoadImage(config []byte, layers int) (LoadImage, error) {
	parsed, err := ParseConfig(config)
	if err != nil {
		return LoadImage{}, err
	}
	if ids := len(parsed.RootFS.DiffIDs); layers != ids {
		return LoadImage{}, fmt.Errorf("%w: the image has %d layers, and its config says %d", ErrMismatch, layers, ids)
	}
	image := LoadImage{Config: config, config: digest.FromBytes(config)}
	for _, id := range parsed.RootFS.DiffIDs {
		image.Layers = append(image.Layers, LoadLayer{Blob: Blob{DiffID: id, Size: -1}})
	}
	return image, nil
}

// parseMeta reads a file of JSON into out.
func (e *entries) parseMeta(name string, out any) error {
	raw, err := e.read(name, maxMeta)
	if err == nil {
		err = json.Unmarshal(raw, out)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}
