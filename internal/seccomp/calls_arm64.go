package seccomp

import (
	_ "embed" // tables and the program

	"golang.org/x/sys/unix"
)

//go:embed calls_aarch64.txt
var calls64 string

//go:embed calls_arm.txt
var calls32 string

//go:embed default_arm64.bpf
var defaultProgram string

func nativeNames() []string { return []string{"arm64", "arm"} }

func arches() []arch {
	return []arch{
		{unix.AUDIT_ARCH_AARCH64, func() map[string]uint32 { return parseNumbers(calls64) }, false},
		{unix.AUDIT_ARCH_ARM, func() map[string]uint32 { return parseNumbers(calls32) }, false},
	}
}
