package archive

import (
	"bytes"
	"os"
	"path/filepath"
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
	got, err := Unpack(bytes.NewReader(data), dir, UnpackOptions{NoSync: true})
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
		got, err := Unpack(file, dir, UnpackOptions{NoSync: os.Getenv("VARVE_BENCH_SYNC") == ""})
		require.NoError(b, err)
		b.SetBytes(got.TarSize)
		require.NoError(b, file.Close())
		b.StopTimer()
		require.NoError(b, os.RemoveAll(dir))
		b.StartTimer()
	}
}
