package bench_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/bench"
	"github.com/varvefs/varve/internal/testenv"
)

// TestCompareImages is `make bench-images`: it prints the table. Without ROUNDS it is
// one round with a small image, which shows that every job is done.
func TestCompareImages(t *testing.T) {
	testenv.FUSE(t)
	base := t.TempDir()
	testenv.CheckLeaks(t, base)
	o := bench.ImageOptions{Base: base, Varve: testenv.Varve(t), Small: true, Many: filepath.Join(base, "many.tar")}
	if text := os.Getenv("ROUNDS"); text != "" {
		n, err := strconv.Atoi(text)
		require.NoError(t, err, "ROUNDS")
		o.Rounds, o.Small, o.Log = n, false, os.Stderr
		o.Tar = testenv.Debian(t, "python3-minimal", "gcc", "libc6-dev", "git", "make")
		manyImages(t, o.Many, 100, 10)
	} else {
		o.Tar = testenv.Busybox(t).Tar
		manyImages(t, o.Many, 2, 3)
	}
	report, err := bench.CompareImages(o)
	require.NoError(t, err)
	require.NoError(t, report.Write(os.Stdout))
	require.GreaterOrEqual(t, len(report.Lines), 8) // and the pause, where there are control groups
	for _, l := range report.Lines {
		require.Positive(t, l.Millis, l.Job)
		require.Positive(t, l.Peak, l.Job)
	}
	if path := os.Getenv("LEDGER"); path != "" {
		appendTo(t, path, report.Ledger(time.Now(), os.Getenv("COMMIT")))
	}
}

// manyImages writes an archive of so many images, many:1 and on, of so many small
// layers each, none of them shared.
func manyImages(t *testing.T, path string, images, layers int) {
	f, err := os.Create(path)
	require.NoError(t, err)
	out := tar.NewWriter(f)
	type entry struct {
		Config           string
		RepoTags, Layers []string
	}
	var manifest []entry
	for i := range images {
		e := entry{RepoTags: []string{fmt.Sprint("many:", i+1)}}
		var ids []string
		for l := range layers {
			data := smallLayer(t, fmt.Sprintf("file-%d", l), fmt.Sprintf("image %d layer %d", i, l))
			ids = append(ids, "sha256:"+sum(data))
			e.Layers = append(e.Layers, add(t, out, sum(data)+"/layer.tar", data))
		}
		config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
		require.NoError(t, err)
		e.Config = add(t, out, sum(config)+".json", config)
		manifest = append(manifest, e)
	}
	raw, err := json.Marshal(manifest)
	require.NoError(t, err)
	add(t, out, "manifest.json", raw)
	require.NoError(t, out.Close())
	require.NoError(t, f.Close())
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

func add(t *testing.T, out *tar.Writer, name string, data []byte) string {
	require.NoError(t, out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}))
	_, err := out.Write(data)
	require.NoError(t, err)
	return name
}

func smallLayer(t *testing.T, name, text string) []byte {
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	add(t, out, name, []byte(text))
	require.NoError(t, out.Close())
	return b.Bytes()
}

func TestImageReport(t *testing.T) {
	var out strings.Builder
	r := bench.ImageReport{Rounds: 1, Lines: []bench.ImageLine{{Job: "import", Millis: 900, Peak: 40 << 20, Ratios: map[string]float64{"podman": 0.3}}}}
	require.NoError(t, r.Write(&out))
	require.Contains(t, out.String(), "0.30 of podman")
	require.Contains(t, out.String(), "120 MiB yes")
	require.Contains(t, r.Ledger(time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), "abc"), "| 2026-01-02 | abc | images")
}
