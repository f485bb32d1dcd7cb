package archive

import (
	"hash/crc64"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vbatts/tar-split/tar/storage"
)

// The checksum is that of the standard library, for all lengths and beginnings.
func TestUpdateCRC(t *testing.T) {
	data := make([]byte, 1000)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(data)
	for from := range 9 {
		for to := from; to <= len(data); to++ {
			begin := random.Uint64()
			require.Equal(t, crc64.Update(begin, storage.CRCTable, data[from:to]), updateCRC(begin, data[from:to]), "%d to %d", from, to)
		}
	}
}

func BenchmarkCRC(b *testing.B) {
	data := make([]byte, chunkSize)
	for name, update := range map[string]func(uint64, []byte) uint64{
		"ours":    updateCRC,
		"library": func(crc uint64, p []byte) uint64 { return crc64.Update(crc, storage.CRCTable, p) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for crc := uint64(0); b.Loop(); {
				crc = update(crc, data)
			}
		})
	}
}
