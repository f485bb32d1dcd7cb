package archive

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/layerdb"
)

// A Blob is what is known of a layer's bytes before they are read. Where they
// turn out to be others the layer is refused.
type Blob struct {
	// MediaType is that of the layer's descriptor; "" where there is none, and
	// the encoding is told from the first bytes.
	MediaType string
	// Digest and Size are of the bytes as they come, compressed or not. "" and -1
	// where they are not known.
	Digest digest.Digest
	Size   int64
	// DiffID is the digest of the uncompressed tar. It is always known: the
	// image's config says it.
	DiffID digest.Digest
}

// An Intake brings images into a store: layers first, side by side if wanted,
// then the records of the images in one transaction. Layers that the store has
// already are neither asked for nor removed meanwhile. Its methods may be called
// by several goroutines, but for Put and Close.
type Intake struct {
	store *layerdb.Store
	opt   UnpackOptions

	mu     sync.Mutex
	held   []*layerdb.Held                 // guarded by mu
	stages map[digest.Digest]*layout.Stage // guarded by mu; layers not in the store yet
	sizes  map[digest.Digest]int64         // guarded by mu; of the files of every layer that is known
}

// NewIntake begins to bring images into the store. opt bounds each layer. Close
// must be called.
func NewIntake(store *layerdb.Store, opt UnpackOptions) *Intake {
	opt.AllowNoEnd = true // digests are checked
	return &Intake{store: store, opt: opt, stages: map[digest.Digest]*layout.Stage{}, sizes: map[digest.Digest]int64{}}
}

// Missing returns which of the layers, given by their diff IDs, have to be taken,
// each once, in their order. The others are here, and stay at least until Close.
func (in *Intake) Missing(diffIDs []digest.Digest) ([]digest.Digest, error) {
	for _, id := range diffIDs {
		if err := checkDigest(id); err != nil {
			return nil, fmt.Errorf("diff ID: %w", err)
		}
	}
	held, err := in.store.Hold(diffIDs...)
	if err != nil {
		return nil, err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.held = append(in.held, held)
	var missing []digest.Digest
	for _, id := range diffIDs {
		if size, ok := held.Size(id); ok {
			in.sizes[id] = size
		}
		if _, ok := in.sizes[id]; !ok && !slices.Contains(missing, id) {
			missing = append(missing, id)
		}
	}
	return missing, nil
}

// Take unpacks one layer from r, which is read to its end unless the layer is here
// already, and checks all that the blob says of it. The errors wrap those of
// [Unpack], or ErrMismatch where the bytes are not what was announced; nothing is
// kept then.
func (in *Intake) Take(r io.Reader, blob Blob) error {
	if err := checkDigest(blob.DiffID); err != nil {
		return fmt.Errorf("diff ID: %w", err)
	}
	if in.has(blob.DiffID) {
		return nil
	}
	stage, err := in.store.Stage("layer")
	if err != nil {
		return err
	}
	size, err := unpackBlob(r, stage.Path(), blob, in.opt)
	if err != nil {
		return errors.Join(fmt.Errorf("layer %s: %w", blob.name(), err), stage.Discard())
	}
	return in.keep(blob.DiffID, stage, size)
}

func (in *Intake) has(id digest.Digest) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	_, ok := in.sizes[id]
	return ok
}

// keep takes a stage, unless another goroutine brought the same layer.
func (in *Intake) keep(id digest.Digest, stage *layout.Stage, size int64) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.sizes == nil {
		return errors.Join(errors.New("the intake was closed"), stage.Discard())
	}
	if _, ok := in.sizes[id]; ok {
		return stage.Discard()
	}
	in.stages[id], in.sizes[id] = stage, size
	return nil
}

// Staged returns where the files are of the layers that were taken and are not in the
// store yet, by diff ID. They stay there until Put.
func (in *Intake) Staged() map[digest.Digest]string {
	in.mu.Lock()
	defer in.mu.Unlock()
	dirs := map[digest.Digest]string{}
	for id, stage := range in.stages {
		dirs[id] = layout.DiffDir(stage.Path())
	}
	return dirs
}

// Sync makes all layers that were taken durable. It belongs before the transaction
// with Put, since it may take long.
func (in *Intake) Sync() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, stage := range in.stages {
		if err := SyncLayer(stage); err != nil {
			return err
		}
	}
	return nil
}

// Put records, in a transaction, an image of the config with these exact bytes,
// under the full references refs, and its chain of layers, each of which must be
// here. It may be for another platform: who asked for it decides. If the transaction
// fails the intake is good for Close only.
func (in *Intake) Put(tx *layerdb.Tx, config []byte, refs ...string) (layerdb.Image, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	parsed, err := ReadConfig(config)
	if err != nil {
		return layerdb.Image{}, err
	}
	chain, err := chainOf(parsed, in.sizes)
	if err != nil {
		return layerdb.Image{}, err
	}
	for _, l := range chain {
		if err := in.putLayer(tx, l); err != nil {
			return layerdb.Image{}, err
		}
	}
	image := layerdb.Image{Top: chain[len(chain)-1].ID, Config: config}
	if parsed.Created != nil {
		image.Created = *parsed.Created
	}
	image.Seal()
	if err := tx.PutImage(image); err != nil {
		return layerdb.Image{}, err
	}
	for _, ref := range refs {
		if err := tx.SetTag(ref, image.ID); err != nil {
			return layerdb.Image{}, err
		}
	}
	return image, nil
}

func (in *Intake) putLayer(tx *layerdb.Tx, l layerdb.Layer) error {
	if stage := in.stages[l.DiffID]; stage != nil {
		if err := tx.Publish(stage, in.store.LayerDir(l.DiffID)); err != nil {
			return err
		}
		delete(in.stages, l.DiffID) // the transaction's now
	}
	return tx.PutLayer(l)
}

// Close lets go of the layers that were found, and removes those that were taken
// and belong to no image.
func (in *Intake) Close() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	var errs []error
	for _, stage := range in.stages {
		errs = append(errs, stage.Discard())
	}
	for _, held := range in.held {
		held.Release()
	}
	in.stages, in.sizes, in.held = nil, nil, nil
	return errors.Join(errs...)
}

// name is how errors call the blob: as the archive does.
func (b Blob) name() digest.Digest {
	if b.Digest != "" {
		return b.Digest
	}
	return b.DiffID
}

// unpackBlob unpacks the blob into dir and checks it. It returns the bytes of its
// files.
func unpackBlob(r io.Reader, dir string, blob Blob, opt UnpackOptions) (int64, error) {
	check, err := newVerifier(r, blob)
	if err != nil {
		return 0, err
	}
	in := bufio.NewReaderSize(check, chunkSize)
	if err := checkEncoding(in, blob.MediaType); err != nil {
		return 0, err
	}
	got, err := Unpack(in, dir, opt)
	// The announced bytes are looked at first: damage on the way shows as nonsense
	// in the tar, too, and that they differ says more.
	if err := check.finish(in, err); err != nil {
		return 0, err
	}
	if got.DiffID != blob.DiffID {
		return 0, fmt.Errorf("%w: its tar has the digest %s, and the image's config says %s", ErrMismatch, got.DiffID, blob.DiffID)
	}
	return got.Size, nil
}

// verifier passes a blob's bytes on, counts and hashes them. It gives no more than
// the size that was announced, and one more to tell that there are more.
type verifier struct {
	in   io.Reader
	blob Blob
	sum  hash.Hash // nil where no digest is known
	n    int64
}

func newVerifier(r io.Reader, blob Blob) (*verifier, error) {
	v := &verifier{in: r, blob: blob}
	if blob.Size >= 0 {
		v.in = io.LimitReader(r, blob.Size+1)
	}
	// The digest of an uncompressed layer is the diff ID, which is checked anyway.
	if blob.Digest == "" || blob.Digest == blob.DiffID {
		return v, nil
	}
	if err := checkDigest(blob.Digest); err != nil {
		return nil, err
	}
	v.sum = sha256.New()
	return v, nil
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.in.Read(p)
	v.n += int64(n)
	if v.sum != nil {
		v.sum.Write(p[:n])
	}
	return n, err
}

// finish reads what is left, as after the end of a compressed stream or an error,
// and tells whether the bytes were those announced; else it returns failed.
func (v *verifier) finish(rest io.Reader, failed error) error {
	if errors.Is(failed, ErrTooBig) {
		return failed // more of it is not worth reading
	}
	_, err := io.Copy(io.Discard, rest)
	switch {
	case err != nil && failed != nil:
		return failed
	case err != nil:
		return fmt.Errorf("read the archive: %w", err)
	case v.blob.Size >= 0 && v.n < v.blob.Size:
		return errors.Join(fmt.Errorf("%w: it has %d bytes, and %d were announced", ErrMismatch, v.n, v.blob.Size), failed)
	case v.blob.Size >= 0 && v.n > v.blob.Size:
		return fmt.Errorf("%w: it has more than the %d bytes that were announced", ErrMismatch, v.blob.Size)
	}
	if v.sum != nil {
		if got := digest.NewDigestFromBytes(digest.SHA256, v.sum.Sum(nil)); got != v.blob.Digest {
			return fmt.Errorf("%w: its digest is %s", ErrMismatch, got)
		}
	}
	return failed
}

// checkDigest refuses what is no sha256 digest, so that what is used in paths and
// comparisons is 64 hexadecimal digits.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%s: %w", quote(d.String()), err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%s: %w: only sha256 is used in images", quote(d.String()), digest.ErrDigestUnsupported)
	}
	return nil
}

// layerTypes are the media types of layers and the encodings they promise (OCI
// image-spec layer.md and media-types.md, and docker's older names).
func layerTypes() map[string]encoding {
	return map[string]encoding{
		v1.MediaTypeImageLayer:                                         plain,
		v1.MediaTypeImageLayerGzip:                                     gzipped,
		v1.MediaTypeImageLayerZstd:                                     zstded,
		"application/vnd.oci.image.layer.nondistributable.v1.tar":      plain,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": gzipped,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": zstded,
		"application/vnd.docker.image.rootfs.diff.tar":                 plain,
		"application/vnd.docker.image.rootfs.diff.tar.gzip":            gzipped,
		"application/vnd.docker.image.rootfs.diff.tar.zstd":            zstded,
		"application/vnd.docker.image.rootfs.foreign.diff.tar":         plain,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    gzipped,
	}
}

// CheckLayerType refuses a media type that no layer has.
func CheckLayerType(mediaType string) error {
	if _, ok := layerTypes()[mediaType]; !ok {
		return fmt.Errorf("%w %s: it is no layer of files that varve knows", ErrMediaType, quote(mediaType))
	}
	return nil
}

// checkEncoding refuses a blob whose first bytes are not what its media type, if it
// has one, promises.
func checkEncoding(in *bufio.Reader, mediaType string) error {
	if mediaType == "" {
		return nil
	}
	if err := CheckLayerType(mediaType); err != nil {
		return err
	}
	got, err := detect(in)
	if err != nil {
		return err
	}
	if want := layerTypes()[mediaType]; got != want {
		return fmt.Errorf("%w %s: its bytes are %s", ErrMediaType, quote(mediaType), got)
	}
	return nil
}
