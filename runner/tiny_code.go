//go:build amd64

package runner

import (
	"bytes"
	"encoding/binary"
	"unsafe"
)

func tinyAddress() uintptr

// tinyInstructions are those of tinyCode, up to the two words that end it.
func tinyInstructions() []byte {
	end := binary.LittleEndian.AppendUint64(nil, 0x2e2e766172766521)
	end = binary.LittleEndian.AppendUint64(end, 0x2165767261762e2e)
	address := tinyAddress()
	text := unsafe.Slice(*(**byte)(unsafe.Pointer(&address)), tinyPath)
	return text[:bytes.Index(text, end)]
}
