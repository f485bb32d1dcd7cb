//go:build amd64 || arm64

package runner

import (
	"bytes"
	"encoding/binary"
	"unsafe"
)

func tinyAddress() uintptr

// tinyInstructions are those of tinyCode, up to the two words that end it.
func tinyInstructions() []byte {
	address := tinyAddress()
	text := unsafe.Slice(*(**byte)(unsafe.Pointer(&address)), tinyPath)
	return text[:bytes.Index(text, tinyEnd())]
}

// tinyEnd are these words.
func tinyEnd() []byte {
	end := binary.LittleEndian.AppendUint64(nil, 0x2e2e766172766521)
	return binary.LittleEndian.AppendUint64(end, 0x2165767261762e2e)
}
