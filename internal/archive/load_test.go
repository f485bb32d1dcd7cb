package archive

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/layerdb"
)

// load brings an archive into the store as the engine does.
func load(t testing.TB, store *layerdb.Store, data []byte) error {
	t.Helper()
	name := t.TempDir() + "/images.tar"
	require.NoError(t, os.WriteFile(name, data, 0o600))
	file, err := os.Open(name)
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	images, err := OpenImages(file, store)
	if err != nil {
		return err
	}
	in := NewIntake(store, UnpackOptions{MaxBytes: 64 << 20, MaxEntries: 1000})
	err = loadAll(store, images, in)
	return errors.Join(err, in.Close(), images.Close())
}

func loadAll(store *layerdb.Store, images *Images, in *Intake) error {
	for _, image := range images.List() {
		for _, l := range image.Layers {
			missing, err := in.Missing([]digest.Digest{l.DiffID})
			if err == nil && len(missing) == 1 {
				err = in.Take(images.Open(l), l.Blob)
			}
			if err != nil {
				return err
			}
		}
	}
	if err := in.Sync(); err != nil {
		return err
	}
	return store.Update(func(tx *layerdb.Tx) error {
		for _, image := range images.List() {
			if _, err := in.Put(tx, image.Config, image.Refs...); err != nil {
				return err
			}
		}
		return nil
	})
}

// shown is what a store shows of images: each ID with its names, and the diff IDs
// of its chain.
func shown(t testing.TB, store *layerdb.Store) map[string]string {
	t.Helper()
	list := map[string]string{}
	require.NoError(t, store.View(func(tx *layerdb.Tx) error {
		images, err := tx.Images()
		require.NoError(t, err)
		tags, err := tx.Tags()
		require.NoError(t, err)
		for _, i := range images {
			chain, err := tx.Chain(i.Top)
			require.NoError(t, err)
			line := ""
			for _, ref := range slices.Sorted(maps.Keys(tags)) {
				if tags[ref] == i.ID {
					line += layerdb.Familiar(ref) + " "
				}
			}
			for _, l := range chain {
				require.DirExists(t, store.LayerDir(l.DiffID))
				line += l.DiffID.Encoded()[:8] + " "
			}
			list[i.ID] = line
		}
		return nil
	}))
	return list
}

// requireRefused loads what must be refused, and looks that nothing of it is there.
func requireRefused(t *testing.T, data []byte) error {
	t.Helper()
	store := emptyStore(t)
	err := load(t, store, data)
	require.Error(t, err)
	require.Empty(t, shown(t, store))
	requireClean(t, store)
	list, readErr := os.ReadDir(store.Root() + "/layers")
	require.NoError(t, readErr)
	require.Empty(t, list)
	return err
}

// TestLoadGivesBack loads what was saved: the same images, the same bytes.
func TestLoadGivesBack(t *testing.T) {
	from, images, tars := sampleImages(t)
	data := save(t, from, images...)
	store := emptyStore(t)
	require.NoError(t, load(t, store, data))
	got := shown(t, store)
	require.Len(t, got, 3)
	top, base := digest.FromBytes(tars[1]).Encoded()[:8], digest.FromBytes(tars[0]).Encoded()[:8]
	require.Equal(t, "base:latest "+base+" ", got[digest.FromBytes(images[1].Config).Encoded()])
	require.Equal(t, "mine:1 example.org/a/b:2 "+top+" "+base+" ", got[digest.FromBytes(images[0].Config).Encoded()])
	require.Equal(t, base+" ", got[digest.FromBytes(images[2].Config).Encoded()])
	require.True(t, bytes.Equal(data, save(t, store, images...)))
	requireClean(t, store)

	require.NoError(t, load(t, store, data), "again")
	require.Equal(t, got, shown(t, store))
	for _, packed := range [][]byte{zip(t, data), zstdOf(t, data)} {
		store := emptyStore(t)
		require.NoError(t, load(t, store, packed))
		require.Equal(t, got, shown(t, store))
		requireClean(t, store)
	}
}

// TestLoadUnpacksNothingTwice spoils the blob of a layer that is here already.
func TestLoadUnpacksNothingTwice(t *testing.T) {
	from, images, tars := sampleImages(t)
	store := emptyStore(t)
	require.NoError(t, load(t, store, save(t, from, images[1])))
	data := save(t, from, images...)
	at := bytes.Index(data, tars[0])
	require.Positive(t, at)
	data[at+512] ^= 1
	require.NoError(t, load(t, store, data), "the layer below is here")
	require.Len(t, shown(t, store), 3)
	requireRefused(t, data)
}

func TestLoadTruncated(t *testing.T) {
	from, layers := newStore(t, build(t, file("big", strings.Repeat("0123456789abcdef", 60_000))), build(t, file("small", "x")))
	data := save(t, from, image(t, []string{"mine:1"}, "", layers...))
	require.Greater(t, len(data), 900_000)
	for n := 0; n < len(data)-1024; n += 64 << 10 {
		require.ErrorIs(t, requireRefused(t, data[:n]), map[bool]error{true: ErrNotTar, false: ErrTruncated}[n == 0], "cut at %d", n)
	}
	zipped := zip(t, data)
	for n := 1; n < len(zipped); n += len(zipped)/20 + 1 {
		requireRefused(t, zipped[:n])
	}
	// At each border between two entries.
	for _, s := range spans(t, data) {
		requireRefused(t, data[:s[0]])
	}
}

// spans are the places of the files of a tar: header and content.
func spans(t *testing.T, data []byte) map[string][2]int {
	t.Helper()
	name := t.TempDir() + "/x.tar"
	require.NoError(t, os.WriteFile(name, data, 0o600))
	file, err := os.Open(name)
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	e, err := readEntries(file)
	require.NoError(t, err)
	list := map[string][2]int{}
	for name, s := range e.list {
		list[name] = [2]int{int(s.offset) - 512, int(s.offset + s.size)}
	}
	return list
}

// TestLoadSeesEveryFlippedByte changes bytes of each file of an archive in turn. A
// blob must be refused. What says which blobs there are must be refused, or mean
// the same as before.
func TestLoadSeesEveryFlippedByte(t *testing.T) {
	from, layers := newStore(t, build(t, dir("etc"), file("etc/hostname", "varve")), build(t, file("new", "x")))
	im := image(t, []string{"mine:1", "b/c:2"}, "one", layers...)
	data := save(t, from, im)
	want := map[string]string{digest.FromBytes(im.Config).Encoded(): "b/c:2 mine:1 " +
		layers[1].DiffID.Encoded()[:8] + " " + layers[0].DiffID.Encoded()[:8] + " "}
	store := emptyStore(t)
	for name, s := range spans(t, data) {
		step := max(1, (s[1]-s[0])/60)
		for i := s[0]; i < s[1]; i += step {
			bad := bytes.Clone(data)
			bad[i] ^= 0x04
			err := load(t, store, bad)
			if i >= s[0]+512 && strings.HasPrefix(name, "blobs/") {
				require.Error(t, err, "%s at %d", name, i-s[0]-512)
			}
			if err == nil {
				require.Equal(t, want, shown(t, store), "%s at %d", name, i-s[0]-512)
				store = emptyStore(t)
			}
		}
	}
	requireClean(t, store)
	require.Empty(t, shown(t, store), "of all that was refused")
}

// oci is an OCI layout that a test spoils at some point of its making.
type oci struct {
	config   func(*v1.Image)
	manifest func(*v1.Manifest)
	rawmf    func(string) string // the manifest's JSON
	index    func(*v1.Index)
	files    func(map[string][]byte)
}

// ociFiles are the files of the layout of an image with two gzip layers.
func ociFiles(t testing.TB, o oci) map[string][]byte {
	t.Helper()
	files := map[string][]byte{v1.ImageLayoutFile: []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	put := func(mediaType string, raw []byte) v1.Descriptor {
		d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		files[blobName(d.Digest)] = raw
		return d
	}
	asJSON := func(v any) []byte {
		raw, err := json.Marshal(v)
		require.NoError(t, err)
		return raw
	}
	config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: v1.RootFS{Type: "layers"}}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, tar := range [][]byte{build(t, file("a", "1")), build(t, file("b", "2"))} {
		manifest.Layers = append(manifest.Layers, put(v1.MediaTypeImageLayerGzip, zip(t, tar)))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(tar))
	}
	if o.config != nil {
		o.config(&config)
	}
	manifest.Config = put(v1.MediaTypeImageConfig, asJSON(config))
	if o.manifest != nil {
		o.manifest(&manifest)
	}
	raw := asJSON(manifest)
	if o.rawmf != nil {
		raw = []byte(o.rawmf(string(raw)))
	}
	d := put(v1.MediaTypeImageManifest, raw)
	d.Annotations = map[string]string{v1.AnnotationRefName: "example.org/x:1"}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{d}}
	if o.index != nil {
		o.index(&index)
	}
	files[v1.ImageIndexFile] = asJSON(index)
	if o.files != nil {
		o.files(files)
	}
	return files
}

func tarOf(t testing.TB, files map[string][]byte, more ...item) []byte {
	t.Helper()
	items := slices.Clone(more)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		items = append(items, file(name, string(files[name])))
	}
	return build(t, items...)
}

func TestLoadOCI(t *testing.T) {
	store := emptyStore(t)
	require.NoError(t, load(t, store, tarOf(t, ociFiles(t, oci{}))))
	for _, line := range shown(t, store) {
		require.Contains(t, line, "example.org/x:1 ")
	}

	// The form of buildx: index.json, an index for several platforms, and beside the
	// image what says how it was built. The other platform's blobs are not there.
	nested := ociFiles(t, oci{})
	var index v1.Index
	require.NoError(t, json.Unmarshal(nested[v1.ImageIndexFile], &index))
	mine := index.Manifests[0]
	mine.Platform = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	index.Manifests = []v1.Descriptor{
		{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 3, Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}},
		mine,
		{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("gone"), Size: 3, Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"}},
	}
	raw, err := json.Marshal(index)
	require.NoError(t, err)
	outer := v1.Index{Versioned: index.Versioned, Manifests: []v1.Descriptor{{
		MediaType: v1.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw)),
		Annotations: map[string]string{imageNameKey: "docker.io/library/built:2", v1.AnnotationRefName: "2"},
	}}}
	nested[blobName(outer.Manifests[0].Digest)] = raw
	nested[v1.ImageIndexFile], err = json.Marshal(outer)
	require.NoError(t, err)
	store = emptyStore(t)
	require.NoError(t, load(t, store, tarOf(t, nested)))
	for _, line := range shown(t, store) {
		require.Contains(t, line, "built:2 ")
	}
}

// TestLoadOldDocker loads the form of docker before 25, where the same layer of
// two images is a link.
func TestLoadOldDocker(t *testing.T) {
	low, top := build(t, file("a", "1")), build(t, file("b", "2"))
	one, two := configFor(t, low), configFor(t, low, top)
	manifest, err := json.Marshal([]dockerManifest{
		{Config: digest.FromBytes(one).Encoded() + ".json", RepoTags: []string{"one:1"}, Layers: []string{"1111/layer.tar"}},
		{Config: digest.FromBytes(two).Encoded() + ".json", Layers: []string{"2222/layer.tar", "3333/layer.tar"}},
	})
	require.NoError(t, err)
	data := build(t,
		dir("1111/"), file("1111/VERSION", "1.0"), file("1111/layer.tar", string(low)),
		dir("2222/"), symlink("2222/layer.tar", "../1111/layer.tar"), file("3333/layer.tar", string(top)),
		file(digest.FromBytes(one).Encoded()+".json", string(one)), file(digest.FromBytes(two).Encoded()+".json", string(two)),
		file(manifestName, string(manifest)))
	store := emptyStore(t)
	require.NoError(t, load(t, store, data))
	require.Len(t, shown(t, store), 2)
	list, err := os.ReadDir(store.Root() + "/layers")
	require.NoError(t, err)
	require.Len(t, list, 2)
}

func TestLoadRefusesLies(t *testing.T) {
	other := digest.FromString("other")
	layerOf := func(fn func(*v1.Descriptor)) oci { return oci{manifest: func(m *v1.Manifest) { fn(&m.Layers[1]) }} }
	configOf := func(fn func(*v1.Descriptor)) oci { return oci{manifest: func(m *v1.Manifest) { fn(&m.Config) }} }
	imageOf := func(fn func(*v1.Descriptor)) oci { return oci{index: func(i *v1.Index) { fn(&i.Manifests[0]) }} }
	for name, c := range map[string]struct {
		o    oci
		want string
	}{
		"layer: digest":     {layerOf(func(d *v1.Descriptor) { d.Digest = other }), "lacks the file"},
		"layer: path":       {layerOf(func(d *v1.Descriptor) { d.Digest = "sha256:../../index.json" }), "invalid checksum digest"},
		"layer: size":       {layerOf(func(d *v1.Descriptor) { d.Size++ }), "not what was announced"},
		"layer: media type": {layerOf(func(d *v1.Descriptor) { d.MediaType = v1.MediaTypeImageLayerZstd }), "wrong media type"},
		"layer: unknown":    {layerOf(func(d *v1.Descriptor) { d.MediaType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip" }), "wrong media type"},
		"layer: the first":  {oci{manifest: func(m *v1.Manifest) { m.Layers[1] = m.Layers[0] }}, "not what was announced"},
		"layer: one less":   {oci{manifest: func(m *v1.Manifest) { m.Layers = m.Layers[:1] }}, "has 1 layers, and its config says 2"},
		"config: digest":    {configOf(func(d *v1.Descriptor) { d.Digest = other }), "lacks the file"},
		"config: path":      {configOf(func(d *v1.Descriptor) { d.Digest = "sha256:/etc/passwd" }), "invalid checksum digest"},
		"config: size":      {configOf(func(d *v1.Descriptor) { d.Size-- }), "not what was announced"},
		"config: helm":      {configOf(func(d *v1.Descriptor) { d.MediaType = "application/vnd.cncf.helm.config.v1+json" }), "no image to run"},
		"image: digest":     {imageOf(func(d *v1.Descriptor) { d.Digest = other }), "lacks the file"},
		"image: path":       {imageOf(func(d *v1.Descriptor) { d.Digest = "sha256:../../../etc/passwd" }), "invalid checksum digest"},
		"image: no hash":    {imageOf(func(d *v1.Descriptor) { d.Digest = "blobs/sha256/" }), "invalid checksum digest"},
		"image: size":       {imageOf(func(d *v1.Descriptor) { d.Size++ }), "not what was announced"},
		"image: media type": {imageOf(func(d *v1.Descriptor) { d.MediaType = "application/vnd.oci.artifact.manifest.v1+json" }), "neither an image nor an index"},
		"image: as index":   {imageOf(func(d *v1.Descriptor) { d.MediaType = v1.MediaTypeImageIndex }), "wrong media type"},
		"image: as docker's": {imageOf(func(d *v1.Descriptor) { d.MediaType = dockerManifestType }),
			`says "application/vnd.oci.image.manifest.v1+json" itself`},
		"image: platform": {imageOf(func(d *v1.Descriptor) { d.Platform = &v1.Platform{OS: "linux", Architecture: "s390x"} }), "linux/s390x"},
		"image: its name": {imageOf(func(d *v1.Descriptor) { d.Annotations[v1.AnnotationRefName] = "example.org/../x:1" }), "invalid reference format"},
		"config: platform": {oci{config: func(c *v1.Image) { c.Architecture = "s390x" }},
			"another platform: it is for linux/s390x, and this machine is linux/" + runtime.GOARCH},
		"config: diff ID":      {oci{config: func(c *v1.Image) { c.RootFS.DiffIDs[1] = other }}, "not what was announced"},
		"config: diff ID path": {oci{config: func(c *v1.Image) { c.RootFS.DiffIDs[1] = "sha256:../../../../evil" }}, "invalid checksum digest"},
		"manifest and index": {oci{rawmf: func(s string) string { return strings.Replace(s, "{", `{"manifests":[],`, 1) }},
			"has the parts of an index"},
		"schema 1":  {oci{rawmf: func(s string) string { return strings.Replace(s, `:2,`, `:1,`, 1) }}, "schema is version 1"},
		"no image":  {oci{index: func(i *v1.Index) { i.Manifests = []v1.Descriptor{} }}, "no image in it"},
		"no JSON":   {oci{files: func(f map[string][]byte) { f[v1.ImageIndexFile] = []byte("{") }}, "read index.json"},
		"long JSON": {oci{files: func(f map[string][]byte) { f[v1.ImageIndexFile] = bytes.Repeat([]byte(" "), maxMeta+1) }}, "limit reached"},
		"another layout": {oci{files: func(f map[string][]byte) { f[v1.ImageLayoutFile] = []byte(`{"imageLayoutVersion":"2.0.0"}`) }},
			"version \"2.0.0\""},
		"one name twice": {oci{index: func(i *v1.Index) { i.Manifests = append(i.Manifests, i.Manifests[0]) },
			files: func(f map[string][]byte) { secondImage(t, f) }}, "two images of the archive are called example.org/x:1"},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, requireRefused(t, tarOf(t, ociFiles(t, c.o))), c.want)
		})
	}
}

// secondImage makes the second of two equal descriptors in index.json that of
// another image, under the same name.
func secondImage(t testing.TB, files map[string][]byte) {
	t.Helper()
	more := ociFiles(t, oci{config: func(c *v1.Image) { c.Author = "another" }})
	var mine, theirs v1.Index
	require.NoError(t, json.Unmarshal(files[v1.ImageIndexFile], &mine))
	require.NoError(t, json.Unmarshal(more[v1.ImageIndexFile], &theirs))
	mine.Manifests[1] = theirs.Manifests[0]
	maps.Copy(files, more)
	raw, err := json.Marshal(mine)
	require.NoError(t, err)
	files[v1.ImageIndexFile] = raw
}

// TestLoadBothMustAgree gives an archive a manifest.json that says something else
// than its index.json.
func TestLoadBothMustAgree(t *testing.T) {
	files := ociFiles(t, oci{})
	var index v1.Index
	require.NoError(t, json.Unmarshal(files[v1.ImageIndexFile], &index))
	var m v1.Manifest
	require.NoError(t, json.Unmarshal(files[blobName(index.Manifests[0].Digest)], &m))
	truth := dockerManifest{Config: blobName(m.Config.Digest), RepoTags: []string{"example.org/x:1"}}
	for _, l := range m.Layers {
		truth.Layers = append(truth.Layers, blobName(l.Digest))
	}
	try := func(list ...dockerManifest) []byte {
		raw, err := json.Marshal(list)
		require.NoError(t, err)
		both := maps.Clone(files)
		both[manifestName] = raw
		return tarOf(t, both)
	}
	require.NoError(t, load(t, emptyStore(t), try(truth)))

	another := configFor(t, build(t, file("a", "1")), build(t, file("b", "2")))
	files[blobName(digest.FromBytes(another))] = another
	for name, lie := range map[string]func(*dockerManifest){
		"config": func(m *dockerManifest) { m.Config = blobName(digest.FromBytes(another)) },
		"layers": func(m *dockerManifest) { slices.Reverse(m.Layers) },
		"names":  func(m *dockerManifest) { m.RepoTags = []string{"trusted:1"} },
		"path":   func(m *dockerManifest) { m.Config = "../../../etc/passwd" },
		"layer":  func(m *dockerManifest) { m.Layers[0] = "/../../etc/shadow" },
		"fewer":  func(m *dockerManifest) { m.Layers = m.Layers[:1] },
		"tag":    func(m *dockerManifest) { m.RepoTags = []string{"../../etc:1"} },
	} {
		t.Run(name, func(t *testing.T) {
			m := truth
			m.Layers = slices.Clone(truth.Layers)
			lie(&m)
			requireRefused(t, try(m))
		})
	}
	require.ErrorContains(t, requireRefused(t, try()), "only the second has")
}

func TestLoadRefusesArchives(t *testing.T) {
	good := ociFiles(t, oci{})
	var index v1.Index
	require.NoError(t, json.Unmarshal(good[v1.ImageIndexFile], &index))
	blob := blobName(index.Manifests[0].Digest)
	without := maps.Clone(good)
	delete(without, blob)
	many := make([]item, 0, maxFiles)
	for i := range maxFiles {
		many = append(many, file(fmt.Sprintf("x/%d", i), ""))
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":         {nil, "the input is empty"},
		"no tar":          {bytes.Repeat([]byte("no tar "), 200), "not a tar archive"},
		"a root":          {build(t, dir("etc"), file("etc/motd", "hi")), "varve import"},
		"a very old one":  {build(t, file("repositories", "{}")), "docker before 1.10"},
		"twice":           {tarOf(t, good, file(v1.ImageIndexFile, "{}")), "another one has its name"},
		"dots":            {tarOf(t, good, file("../x", "")), `".."`},
		"absolute link":   {tarOf(t, without, symlink(blob, "/etc/passwd")), "absolute path"},
		"link out":        {tarOf(t, without, symlink(blob, "../../../etc/passwd")), "out of the archive"},
		"link to nothing": {tarOf(t, without, symlink(blob, "absent")), "lacks the file"},
		"loop":            {tarOf(t, without, symlink(blob, index.Manifests[0].Digest.Encoded())), "links lead to it"},
		"device":          {tarOf(t, good, node("sda", tar.TypeBlock, 8, 0)), "neither a file, a directory nor a link"},
		"FIFO":            {tarOf(t, without, node(blob, tar.TypeFifo, 0, 0)), "neither a file"},
		"long name":       {tarOf(t, good, file(strings.Repeat("n", 2000), "")), "longer than"},
		"many":            {tarOf(t, good, many...), "limit reached"},
		"sparse":          {sparseBomb(t, 1<<20), "it is sparse"},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, requireRefused(t, c.data), c.want)
		})
	}
}

// TestLoadBomb: a layer that grows beyond its bound is stopped there.
func TestLoadBomb(t *testing.T) {
	bomb := build(t, file("zeros", strings.Repeat("\x00", 65<<20)))
	files := ociFiles(t, oci{
		config: func(c *v1.Image) { c.RootFS.DiffIDs[1] = digest.FromBytes(bomb) },
		manifest: func(m *v1.Manifest) {
			raw := zip(t, bomb)
			m.Layers[1].Digest, m.Layers[1].Size = digest.FromBytes(raw), int64(len(raw))
		},
	})
	raw := zip(t, bomb)
	files[blobName(digest.FromBytes(raw))] = raw
	require.ErrorIs(t, requireRefused(t, tarOf(t, files)), ErrTooBig)
}

// FuzzOpenImages reads what archives say of themselves: an image that is accepted
// lies in the archive, has a config that is one, and digests that can be names.
func FuzzOpenImages(f *testing.F) {
	f.Add(tarOf(f, ociFiles(f, oci{})))
	from, images, _ := sampleImages(f)
	f.Add(save(f, from, images[1]))
	f.Add(sparseBomb(f, 1<<20))
	store := emptyStore(f)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := os.CreateTemp(dir, "images")
		require.NoError(t, err)
		defer func() { require.NoError(t, errors.Join(file.Close(), os.Remove(file.Name()))) }()
		_, err = file.Write(data)
		require.NoError(t, err)
		_, err = file.Seek(0, 0)
		require.NoError(t, err)
		archive, err := OpenImages(file, store)
		if err != nil {
			return
		}
		for _, image := range archive.List() {
			_, err := ParseConfig(image.Config)
			require.NoError(t, err)
			for _, l := range image.Layers {
				require.Regexp(t, "^sha256:[0-9a-f]{64}$", l.DiffID.String())
				read, err := io.Copy(io.Discard, archive.files.open(l.at))
				require.NoError(t, err)
				require.Equal(t, l.at.size, read)
			}
		}
		require.NoError(t, archive.Close())
	})
}
