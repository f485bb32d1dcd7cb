//go:build linux && (amd64 || arm64)

package hugeheap

import "unsafe"

const (
	hugePage = 2 << 20 // of 4 KiB pages; others say EINVAL
	collapse = 25      // MADV_COLLAPSE
)

// first is on the heap, among what was there before any package was initialised.
var first = new([64]byte)

func init() {
	madvise(uintptr(unsafe.Pointer(first))&^(hugePage-1), hugePage, collapse)
}

// madvise is the system call. It does not tell the scheduler, which has nothing else to
// run yet.
//
//go:noescape
func madvise(address, length uintptr, advice int)
