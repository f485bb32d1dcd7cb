package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

func TestManifestAndConfig(t *testing.T) {
	_, r := start(t)
	config := []byte(`{"os":"linux"}`)
	m := image(t, upload(t, r, config), upload(t, r, noise(10)))
	d := put(t, r, "1", v1.MediaTypeImageManifest, m)
	for _, reference := range []string{"1", d.Digest.String()} {
		got, err := r.Manifest(t.Context(), reference, "")
		require.NoError(t, err)
		require.Equal(t, Manifest{m, d.Digest, d.Digest}, got)
		raw, err := r.Config(t.Context(), got)
		require.NoError(t, err)
		require.Equal(t, config, raw)
	}
	_, err := r.Manifest(t.Context(), "2", "")
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorContains(t, err, r.Name())
}

func TestPlatforms(t *testing.T) {
	_, r := start(t)
	config := upload(t, r, []byte(`{}`))
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	digests := map[string]digest.Digest{}
	add := func(name string, p v1.Platform) {
		d := put(t, r, strings.ReplaceAll(name, "/", "-"), v1.MediaTypeImageManifest, image(t, config, upload(t, r, []byte(name))))
		digests[name] = d.Digest
		d.Platform = &p
		index.Manifests = append(index.Manifests, d)
	}
	add("unknown/unknown", v1.Platform{OS: "unknown", Architecture: "unknown"})
	add("linux/arm/v5", v1.Platform{OS: "linux", Architecture: "arm", Variant: "v5"})
	add("linux/arm/v6", v1.Platform{OS: "linux", Architecture: "arm", Variant: "v6"})
	add("linux/arm64", v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"})
	add("linux/amd64/v3", v1.Platform{OS: "linux", Architecture: "amd64", Variant: "v3"})
	add("linux/amd64", v1.Platform{OS: "linux", Architecture: "amd64"})
	d := put(t, r, "all", v1.MediaTypeImageIndex, index)
	for asked, want := range map[string]string{
		"":               "linux/" + runtime.GOARCH,
		"linux/amd64":    "linux/amd64",
		"linux/amd64/v2": "linux/amd64",
		"linux/x86_64":   "linux/amd64",
		"linux/amd64/v3": "linux/amd64/v3",
		"linux/arm":      "linux/arm/v6",
		"linux/arm/v5":   "linux/arm/v5",
		"linux/arm64":    "linux/arm64",
		"linux/aarch64":  "linux/arm64",
	} {
		m, err := r.Manifest(t.Context(), "all", asked)
		require.NoError(t, err, asked)
		require.Equal(t, digests[want], m.Digest, asked)
		require.Equal(t, d.Digest, m.Named, asked)
	}
	_, err := r.Manifest(t.Context(), "all", "linux/s390x")
	require.ErrorIs(t, err, ErrPlatform)
	require.ErrorContains(t, err, "linux/amd64, linux/amd64/v3, linux/arm/v5, linux/arm/v6, linux/arm64")
	require.NotContains(t, err.Error(), "unknown")
	for _, bad := range []string{"linux", "linux/", "a/b/c/d", "/amd64"} {
		_, err := r.Manifest(t.Context(), "all", bad)
		require.ErrorContains(t, err, "is no platform", bad)
	}
}

func TestCheckPlatform(t *testing.T) {
	config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "s390x"}}
	require.NoError(t, CheckPlatform(config, "linux/s390x"))
	require.ErrorIs(t, CheckPlatform(config, "linux/arm64"), ErrPlatform)
	require.ErrorContains(t, CheckPlatform(config, ""), "--platform")
	config.Platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	require.NoError(t, CheckPlatform(config, ""))
}

// TestIndexOfTooManyLevels: an index that names itself, as far as one can tell.
func TestIndexOfTooManyLevels(t *testing.T) {
	_, r := start(t)
	below := put(t, r, "0", v1.MediaTypeImageManifest, image(t, upload(t, r, []byte("{}")), upload(t, r, []byte("x"))))
	for level := 1; level <= maxNesting+1; level++ {
		below.Platform = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
		below = put(t, r, fmt.Sprint(level), v1.MediaTypeImageIndex, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{below}})
	}
	_, err := r.Manifest(t.Context(), fmt.Sprint(maxNesting), "")
	require.NoError(t, err)
	_, err = r.Manifest(t.Context(), fmt.Sprint(maxNesting+1), "")
	require.ErrorIs(t, err, ErrUnsupported)
}

// TestRefusedManifests: each is wrong in one way.
func TestRefusedManifests(t *testing.T) {
	reg, r := start(t)
	sum := digest.FromString("x").String()
	const oci, index = v1.MediaTypeImageManifest, v1.MediaTypeImageIndex
	config := `"config":{"mediaType":"` + v1.MediaTypeImageConfig + `","digest":"` + sum + `","size":1}`
	layer := `{"mediaType":"` + v1.MediaTypeImageLayer + `","digest":"` + sum + `","size":1}`
	good := `{"schemaVersion":2,` + config + `,"layers":[` + layer + `]}`
	serve(reg, oci, good)
	_, err := r.Manifest(t.Context(), "1", "")
	require.NoError(t, err, "what the others differ from")
	for name, c := range map[string]struct{ mediaType, data, want string }{
		"both (CVE-2021-41190)":          {oci, `{` + config + `,"layers":[` + layer + `],"manifests":[]}`, "at once"},
		"both, as an index":              {index, `{` + config + `,"manifests":[]}`, "at once"},
		"an image said to be an index":   {index, good, "a manifest of the type"},
		"an index said to be an image":   {oci, `{"manifests":[]}`, "a manifest of the type"},
		"type inside and outside differ": {oci, `{"mediaType":"` + dockerManifest + `",` + config + `,"layers":[]}`, "and the registry that it is"},
		"a type of its own":              {"text/html", good, `"text/html"`},
		"schema 1":                       {dockerSchemaSigned, `{"fsLayers":[]}`, "schema 1"},
		"schema 1 in disguise":           {oci, `{"fsLayers":[],` + config + `,"layers":[]}`, "schema 1"},
		"no JSON":                        {oci, `<html>`, "no JSON"},
		"layers that are no list":        {oci, `{` + config + `,"layers":7}`, "its manifest"},
		"an artifact":                    {oci, strings.Replace(good, v1.MediaTypeImageConfig, "application/vnd.cncf.helm.config.v1+json", 1), "helm"},
		"a digest that is a path":        {oci, strings.Replace(good, sum, "../../../../etc/passwd", 1), "no sha256 digest"},
		"a layer's too":                  {oci, `{` + config + `,"layers":[` + strings.Replace(layer, sum, "sha256:../../x", 1) + `]}`, "no sha256 digest"},
		"another algorithm":              {oci, strings.Replace(good, sum, "sha512:"+strings.Repeat("0", 128), 1), "no sha256 digest"},
		"a negative size":                {oci, strings.Replace(good, `"size":1`, `"size":-1`, 1), "-1 bytes"},
		"too many layers":                {oci, `{` + config + `,"layers":[` + layer + strings.Repeat(","+layer, maxLayers) + `]}`, "1001 layers"},
		"too long":                       {oci, good + strings.Repeat(" ", maxManifest), "longer than"},
		"no image for anybody":           {index, `{"manifests":[]}`, "none at all"},
	} {
		t.Run(name, func(t *testing.T) {
			serve(reg, c.mediaType, c.data)
			_, err := r.Manifest(t.Context(), "1", "")
			require.ErrorContains(t, err, c.want)
			if name != "no image for anybody" {
				require.ErrorIs(t, err, ErrUnsupported)
			}
		})
	}
}

func TestManifestOfAnotherDigest(t *testing.T) {
	reg, r := start(t)
	d := put(t, r, "1", v1.MediaTypeImageManifest, image(t, upload(t, r, []byte("{}")), upload(t, r, []byte("x"))))
	m := image(t, upload(t, r, []byte("{}")), upload(t, r, []byte("y")))
	data, err := json.Marshal(m)
	require.NoError(t, err)

	serve(reg, v1.MediaTypeImageManifest, string(data))
	_, err = r.Manifest(t.Context(), d.Digest.String(), "")
	require.ErrorIs(t, err, ErrCorrupt)
	reg.Filter(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		w.Header().Set("Docker-Content-Digest", d.Digest.String())
		w.Header().Set("Content-Type", v1.MediaTypeImageManifest)
		_, _ = w.Write(data)
	})
	_, err = r.Manifest(t.Context(), "1", "")
	require.ErrorIs(t, err, ErrCorrupt)
}

// TestIndexThatLies says another size of its manifest than that has.
func TestIndexThatLies(t *testing.T) {
	_, r := start(t)
	d := put(t, r, "1", v1.MediaTypeImageManifest, image(t, upload(t, r, []byte("{}")), upload(t, r, []byte("x"))))
	d.Platform = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	d.Size++
	put(t, r, "2", v1.MediaTypeImageIndex, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{d}})
	_, err := r.Manifest(t.Context(), "2", "")
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestConfigOfAnotherDigest(t *testing.T) {
	reg, r := start(t)
	data := []byte(`{"os":"linux"}`)
	put(t, r, "1", v1.MediaTypeImageManifest, image(t, upload(t, r, data), upload(t, r, []byte("x"))))
	m, err := r.Manifest(t.Context(), "1", "")
	require.NoError(t, err)

	reg.Filter(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { _, _ = w.Write([]byte(`{"os":"linus"}`)) })
	_, err = r.Config(t.Context(), m)
	require.ErrorIs(t, err, ErrCorrupt)
	reg.Filter(nil)
	wrong := m
	wrong.Config.Size--
	_, err = r.Config(t.Context(), wrong)
	require.ErrorIs(t, err, ErrCorrupt)
	wrong.Config.Size = maxConfig + 1
	_, err = r.Config(t.Context(), wrong)
	require.ErrorIs(t, err, ErrUnsupported)
}
