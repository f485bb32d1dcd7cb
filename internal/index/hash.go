package index

import "math/bits"

// maxProbe is how many slots a lookup looks at before it halves the directory.
const maxProbe = 32

// slotsFor is how many slots n names get: load 0.6.
func slotsFor(n int) int { return n + n*2/3 + 1 }

// hash mixes a directory and a name, eight bytes a step, each by a 128-bit
// product folded in two.
func hash(dir uint32, name string) uint64 {
	const k0, k1, k2 = 0x9e3779b97f4a7c15, 0xa0761d6478bd642f, 0xe7037ed1a0b428db
	h := uint64(dir)*k0 + k2
	n := uint64(len(name))
	for ; len(name) >= 8; name = name[8:] {
		h = fold(h^word(name), k1)
	}
	tail := n << 56 // at most seven bytes are below it
	for i := 0; i < len(name); i++ {
		tail |= uint64(name[i]) << (8 * i)
	}
	return fold(h^tail, k2)
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// word is the first eight bytes of s.
func word(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// slotOf is where the search for h begins in a table of n slots: the upper half
// of h*n, which needs no division.
func slotOf(h uint64, n uint32) uint32 {
	hi, _ := bits.Mul64(h, uint64(n))
	return uint32(hi)
}
