package archive

import (
	"encoding/binary"
	"hash/crc64"

	"github.com/vbatts/tar-split/tar/storage"
)

// updateCRC is crc64.Update with tar-split's table, that of ISO 3309, twice as fast.
//
// It uses that the polynomial is x^64 + x^4 + x^3 + x + 1: to go on by 64 bits is to
// multiply the remainder by x^64, which is the same as by x^4 + x^3 + x + 1, so four
// shifts do it and no table is needed. Squared twice, x^256 is x^16 + x^12 + x^4 + 1: with
// that four remainders, each of every fourth word, go on side by side.
func updateCRC(crc uint64, p []byte) uint64 {
	const block = 4 * 8
	if len(p) < 2*block {
		return crc64.Update(crc, storage.CRCTable, p)
	}
	a, b, c, d := ^crc, uint64(0), uint64(0), uint64(0)
	for {
		a ^= binary.LittleEndian.Uint64(p)
		b ^= binary.LittleEndian.Uint64(p[8:])
		c ^= binary.LittleEndian.Uint64(p[16:])
		d ^= binary.LittleEndian.Uint64(p[24:])
		if p = p[block:]; len(p) < block {
			break
		}
		a, b, c, d = by256(a), by256(b), by256(c), by256(d)
	}
	a = by64(by64(by64(by64(a)^b)^c) ^ d)
	return crc64.Update(^a, storage.CRCTable, p)
}

// by64 multiplies by x^64 modulo the polynomial. The lowest bit is that of x^63; what
// is shifted out below is of x^64 and above, and comes in once more.
func by64(r uint64) uint64 {
	over := r<<63 ^ r<<61 ^ r<<60
	return r ^ r>>1 ^ r>>3 ^ r>>4 ^ over ^ over>>1 ^ over>>3 ^ over>>4
}

// by256 multiplies by x^256.
func by256(r uint64) uint64 {
	over := r<<60 ^ r<<52 ^ r<<48
	return r ^ r>>4 ^ r>>12 ^ r>>16 ^ over ^ over>>1 ^ over>>3 ^ over>>4
}
