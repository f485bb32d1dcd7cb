package unionfs

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Mode is how the data of open files travels between programs and a view. What
// programs see is the same in all of them; docs/performance.md has what each
// costs, docs/posix.md the little that differs.
type Mode uint8

const (
	// Cached answers open and close of everything in the kernel: warm files are
	// opened and read without a request, each write is one.
	Cached Mode = iota
	// Writeback is Cached, and the kernel collects writes, too: small ones cost
	// nothing until the file is closed. Whoever looks into the upper from outside
	// sees them late, and if this process is killed they are lost.
	Writeback
	// Passthrough has the kernel read and write files of the upper by itself. It
	// needs Linux 6.9 and CAP_SYS_ADMIN in the first user namespace; each open
	// and each close is a request.
	Passthrough
	// Plain is told of every open and close, and keeps what the kernel has cached
	// between them.
	Plain
	// Auto takes Passthrough where the host allows it and Cached elsewhere;
	// [Server.Mode] says which.
	Auto
)

var modeNames = []string{"cached", "writeback", "passthrough", "plain", "auto"}

// String is the name as ParseMode reads it.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// ParseMode reads the value of the mount option io. Empty means Cached.
func ParseMode(text string) (Mode, error) {
	if text == "" {
		return Cached, nil
	}
	if k := slices.Index(modeNames, text); k >= 0 {
		return Mode(k), nil
	}
	return Cached, fmt.Errorf("unknown io mode %q: it is one of cached, writeback, passthrough, plain and auto", text)
}

// hearsOpen tells whether the kernel tells of opens and closes.
func (m Mode) hearsOpen() bool { return m == Plain || m == Passthrough }

// errNoPassthrough is why a view can not be mounted with Passthrough.
type errNoPassthrough struct{ cause error }

func (e errNoPassthrough) Error() string {
	text := fmt.Sprintf("io=passthrough is refused by the kernel (%v)", e.cause)
	switch {
	case errors.Is(e.cause, unix.EPERM):
		return text + ": it needs Linux 6.9 and root of the machine itself, not of a user namespace; io=auto takes what there is"
	case errors.Is(e.cause, unix.ELOOP):
		return text + ": the upper directory is on a stacked file system, such as overlayfs; io=auto takes what there is"
	}
	return text + ": it needs Linux 6.9 with CONFIG_FUSE_PASSTHROUGH; io=auto takes what there is"
}

func (e errNoPassthrough) Unwrap() error { return e.cause }
