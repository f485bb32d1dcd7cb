package seccomp

import (
	_ "embed" // tables and the program

	"golang.org/x/sys/unix"
)

//go:embed calls_x86_64.txt
var calls64 string

//go:embed calls_x86.txt
var calls32 string

//go:embed default_amd64.bpf
var defaultProgram string

func nativeNames() []string { return []string{"amd64", "x86", "x32"} }

func arches() []arch {
	return []arch{
		{unix.AUDIT_ARCH_X86_64, func() map[string]uint32 { return parseNumbers(calls64) }, true},
		{unix.AUDIT_ARCH_I386, func() map[string]uint32 { return parseNumbers(calls32) }, false},
	}
}
