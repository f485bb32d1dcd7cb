package archive

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// stage is a fresh layer directory.
func stage(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layer")
	require.NoError(t, os.Mkdir(dir, 0o700))
	return dir
}

// unpack unpacks data and returns the layer directory.
func unpack(t testing.TB, data []byte) (string, Unpacked) {
	t.Helper()
	dir := stage(t)
	got, err := Unpack(bytes.NewReader(data), dir, UnpackOptions{})
	require.NoError(t, err)
	return dir, got
}

// requireSameTar checks that the layer gives back the tar it was made from.
func requireSameTar(t testing.TB, dir string, got Unpacked, data []byte) {
	t.Helper()
	require.Equal(t, digest.FromBytes(data), got.DiffID)
	require.EqualValues(t, len(data), got.TarSize)
	size, err := TarSize(dir)
	require.NoError(t, err)
	require.EqualValues(t, len(data), size)
	var back bytes.Buffer
	require.NoError(t, WriteLayer(&back, dir, got.DiffID))
	require.True(t, bytes.Equal(data, back.Bytes()), "the tar differs")
}

// BenchmarkUnpack measures an import of the tar in $VARVE_BENCH_TAR.
func BenchmarkUnpack(b *testing.B) {
	path := os.Getenv("VARVE_BENCH_TAR")
	if path == "" {
		b.Skip("VARVE_BENCH_TAR names no tar")
	}
	for b.Loop() {
		dir := stage(b)
		file, err := os.Open(path)
		require.NoError(b, err)
		got, err := Unpack(file, dir, UnpackOptions{})
		require.NoError(b, err)
		b.SetBytes(got.TarSize)
		require.NoError(b, file.Close())
		b.StopTimer()
		require.NoError(b, os.RemoveAll(dir))
		b.StartTimer()
	}
}

// TestUnpackEncodings unpacks the same tar from every encoding, and none of any
// that was cut short.
func TestUnpackEncodings(t *testing.T) {
	data := build(t, file("big", strings.Repeat("0123456789abcdef", 1000)))
	for _, program := range []string{"gzip", "zstd", "xz", "bzip2"} {
		t.Run(program, func(t *testing.T) {
			path, err := exec.LookPath(program)
			if err != nil {
				t.Skipf("no %s here: apt-get install %s", program, map[string]string{"xz": "xz-utils"}[program])
			}
			cmd := exec.Command(path, "-c")
			cmd.Stdin = bytes.NewReader(data)
			packed, err := cmd.Output()
			require.NoError(t, err)
			require.Less(t, len(packed), len(data))
			got, err := Unpack(bytes.NewReader(packed), t.TempDir(), UnpackOptions{})
			require.NoError(t, err)
			require.Equal(t, digest.FromBytes(data), got.DiffID)
			twice, err := Unpack(io.MultiReader(bytes.NewReader(packed), bytes.NewReader(packed)), t.TempDir(), UnpackOptions{})
			require.NoError(t, err, "two streams, one after the other")
			require.Equal(t, digest.FromBytes(append(bytes.Clone(data), data...)), twice.DiffID)
			for n := 7; n < len(packed); n += 7 {
				_, err := Unpack(bytes.NewReader(packed[:n]), t.TempDir(), UnpackOptions{})
				require.ErrorIs(t, err, ErrTruncated, "cut at %d of %d", n, len(packed))
			}
		})
	}
}

// TestUnpackXZMemory: a header may ask for a dictionary of 4 GiB.
func TestUnpackXZMemory(t *testing.T) {
	xz, err := exec.LookPath("xz")
	if err != nil {
		t.Skip("no xz here: apt-get install xz-utils")
	}
	cmd := exec.Command(xz, "-c", "--lzma2=dict=512MiB")
	cmd.Stdin = bytes.NewReader(build(t, file("f", "x")))
	packed, err := cmd.Output()
	require.NoError(t, err)
	_, err = Unpack(bytes.NewReader(packed), t.TempDir(), UnpackOptions{})
	require.ErrorContains(t, err, "dictionary size exceeds max")
}
