package runner

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Process 1 of a container with Config.Init is a program of some 500 bytes, one thread
// and one page of memory, where a Go program would take ten megabytes and five threads of
// what the container may have. It is made here, from the instructions of tinyCode, as an
// ELF file in sealed memory; the init stage becomes it with its last step, with the
// privileges and behind the filter of system calls of the program.
//
// What it does (tini does the same):
//
//   - it starts the program as a child, in a process group of its own that has the
//     terminal, if there is one, and tells the caller of [Start] over controlFD should
//     that not be possible;
//   - every signal that it gets goes on to the child;
//   - every process that was orphaned, and ends, is waited for;
//   - when the child has ended it does, with the child's code, or 128+n after signal n,
//     and so all others do.
//
// The program's path lies in the file at tinyPath, its arguments follow two of ours.
const (
	tinyBase   = 0x400000 // where the file is mapped; tinyCode knows it
	tinyPath   = 0x800    // likewise
	tinyHeader = 64 + 2*56
)

// tinyName is argv[0] of process 1.
const tinyName = "varve-init"

// ErrNoInit: for this kind of processor tinyCode is not written.
var ErrNoInit = errors.New("--init is not there for this kind of processor")

// openTiny makes the file of process 1 that starts the program at path.
func openTiny(path string) (*os.File, error) {
	code := tinyInstructions()
	if code == nil {
		return nil, ErrNoInit
	}
	file, err := tinyFile(code, tinyMachine, path)
	if err != nil {
		return nil, err
	}
	f, err := sealed(tinyName, bytes.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("make process 1: %w", err)
	}
	return f, nil
}

// tinyFile is the file, of instructions of this kind of processor.
func tinyFile(code []byte, machine uint16, path string) ([]byte, error) {
	if tinyHeader+len(code) > tinyPath {
		return nil, fmt.Errorf("make process 1: %d bytes of instructions are too many", len(code))
	}
	file := make([]byte, tinyPath, tinyPath+len(path)+1)
	copy(file[tinyHeader:], code)
	file = append(append(file, path...), 0)
	putHeader(file, machine)
	return file, nil
}

// putHeader writes the headers of an ELF file (elf(5)): one segment, which is the whole
// file and can not be written, and a stack that can not be executed.
func putHeader(file []byte, machine uint16) {
	type segment struct {
		Kind, Flags                                   uint32
		Offset, Address, Physical, Size, Memory, Page uint64
	}
	const load, stack, read, write, execute = 1, 0x6474e551, 4, 2, 1
	header := struct {
		Ident                                                    [16]byte
		Kind, Machine                                            uint16
		Version                                                  uint32
		Entry, Segments, Sections                                uint64
		Flags                                                    uint32
		Size, SegmentSize, SegmentCount, SectionSize, Count, Str uint16
		Load, Stack                                              segment
	}{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Kind: 2, Machine: machine, Version: 1,
		Entry: tinyBase + tinyHeader, Segments: 64, Size: 64, SegmentSize: 56, SegmentCount: 2,
		Load:  segment{load, read | execute, 0, tinyBase, tinyBase, uint64(len(file)), uint64(len(file)), 0x1000},
		Stack: segment{Kind: stack, Flags: read | write, Page: 16},
	}
	_, _ = binary.Encode(file, binary.LittleEndian, &header) // it has room
}

// executeTiny becomes process 1, which starts the program. It returns only with an error.
func executeTiny(program *os.File, cfg *Config) error {
	argv, err := syscall.SlicePtrFromStrings(append([]string{tinyName, "--"}, cfg.Args...))
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings(cfg.Env)
	if err != nil {
		return err
	}
	empty, err := syscall.BytePtrFromString("")
	if err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, program.Fd(), uintptr(unsafe.Pointer(empty)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("become process 1: execveat: %w", errno)
}
