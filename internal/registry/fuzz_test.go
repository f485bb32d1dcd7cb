package registry

import (
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// FuzzManifest: whatever comes as a manifest is refused, or is one thing only, with
// nothing but digests in it.
func FuzzManifest(f *testing.F) {
	sum := digest.FromString("x").String()
	f.Add(v1.MediaTypeImageManifest, `{"config":{"mediaType":"`+v1.MediaTypeImageConfig+`","digest":"`+sum+`","size":1},"layers":[{"digest":"`+sum+`"}]}`)
	f.Add(v1.MediaTypeImageIndex, `{"manifests":[{"mediaType":"`+v1.MediaTypeImageManifest+`","digest":"`+sum+`","platform":{"os":"linux","architecture":"amd64","variant":"v1"}}]}`)
	f.Add(dockerManifest, `{"manifests":[],"layers":[]}`)
	f.Add(dockerSchemaSigned, `{"fsLayers":[]}`)
	f.Fuzz(func(t *testing.T, header, data string) {
		mediaType, err := mediaTypeOf(header, []byte(data))
		if err != nil {
			require.ErrorIs(t, err, ErrUnsupported)
			return
		}
		require.NotEqual(t, isIndex(mediaType), isImage(mediaType))
		var found []v1.Descriptor
		if isIndex(mediaType) {
			d, err := chooseFrom([]byte(data), v1.Platform{OS: "linux", Architecture: "amd64"})
			if err != nil {
				return
			}
			found = []v1.Descriptor{d}
		} else {
			m, err := parseManifest(raw{data: []byte(data), mediaType: mediaType})
			if err != nil {
				return
			}
			found = append(m.Layers, m.Config)
		}
		for _, d := range found {
			require.Regexp(t, `^sha256:[0-9a-f]{64}$`, d.Digest.String())
			require.GreaterOrEqual(t, d.Size, int64(0))
		}
	})
}
