package seccomp

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// standardCaps are docker's default capabilities, as far as the default profile
// asks for them.
func standardCaps() []string { return []string{"CAP_SYS_CHROOT"} }

// Default is docker's default profile for a container with the capabilities.
func Default(caps []string) (Program, error) {
	if isStandard(caps) {
		return Decode([]byte(defaultProgram))
	}
	p, err := Parse([]byte(defaultJSON))
	if err != nil {
		return nil, err
	}
	return p.Compile(caps)
}

// isStandard tells whether the capabilities are the same as docker's default ones
// for the default profile.
func isStandard(caps []string) bool {
	for name := range strings.FieldsSeq("CAP_DAC_READ_SEARCH CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_CHROOT CAP_SYS_MODULE CAP_SYS_PACCT " +
		"CAP_SYS_PTRACE CAP_SYS_RAWIO CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_SYS_NICE CAP_SYSLOG CAP_BPF CAP_PERFMON") {
		if slices.Contains(caps, name) != slices.Contains(standardCaps(), name) {
			return false
		}
	}
	return true
}

// Encode writes a program as bytes, eight an instruction.
func (p Program) Encode() []byte {
	var data []byte
	for _, i := range p {
		data = binary.LittleEndian.AppendUint16(data, i.Code)
		data = append(data, i.Jt, i.Jf)
		data = binary.LittleEndian.AppendUint32(data, i.K)
	}
	return data
}

// Decode reads what Encode has written.
func Decode(data []byte) (Program, error) {
	if len(data) == 0 || len(data)%8 != 0 || len(data)/8 > maxProgram {
		return nil, fmt.Errorf("a seccomp program can not have %d bytes", len(data))
	}
	var p Program
	for ; len(data) > 0; data = data[8:] {
		p = append(p, unix.SockFilter{Code: binary.LittleEndian.Uint16(data), Jt: data[2], Jf: data[3], K: binary.LittleEndian.Uint32(data[4:])})
	}
	return p, nil
}

// Load puts the calling thread under the filter, for good. It needs CAP_SYS_ADMIN in
// the user namespace, or no_new_privs.
func (p Program) Load() error {
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(p)
	if errno != 0 {
		return fmt.Errorf("load the seccomp filter: %w", errno)
	}
	return nil
}
