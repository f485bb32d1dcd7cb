package whiteout

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// Prefix begins the file name of an OCI whiteout.
	Prefix = ".wh."
	// OpaqueName is the file that makes its directory opaque in the OCI dialect.
	OpaqueName = ".wh..wh..opq"
	// metaPrefix begins the names that AUFS kept for itself.
	metaPrefix = ".wh..wh."
)

// ErrBadName is what [Parse] returns for a name that begins like a whiteout and
// hides nothing that can exist, such as ".wh." or ".wh...".
var ErrBadName = errors.New("whiteout of an impossible name")

// Mark says what a file name means in the OCI dialect.
type Mark int

const (
	Plain  Mark = iota // an ordinary name
	Hides              // the name after the prefix is hidden
	Opaque             // the whole directory is opaque
	Meta               // AUFS's own bookkeeping: no file of the layer, hides nothing
)

// Parse tells what name, one component, means in the OCI dialect. For [Hides]
// hidden is the name that is hidden; it is empty otherwise.
func Parse(name string) (mark Mark, hidden string, err error) {
	hidden, ok := strings.CutPrefix(name, Prefix)
	switch {
	case !ok:
		return Plain, "", nil
	case name == OpaqueName:
		return Opaque, "", nil
	case strings.HasPrefix(name, metaPrefix):
		return Meta, "", nil
	case hidden == "" || hidden == "." || hidden == "..":
		return Meta, "", fmt.Errorf("%w: %q", ErrBadName, name)
	}
	return Hides, hidden, nil
}

// Reserved tells whether name can not be the name of a file in a view, because
// in a layer it would be read as a whiteout.
func Reserved(name string) bool { return strings.HasPrefix(name, Prefix) }

// IsDevice tells whether a file of this mode and device number is a whiteout of
// the overlay dialect.
func IsDevice(mode uint32, rdev uint64) bool {
	return mode&unix.S_IFMT == unix.S_IFCHR && rdev == 0
}

// opaqueAttrs are read; which of them is written depends on what we may do.
var opaqueAttrs = [...]string{
	"trusted.overlay.opaque",
	"user.overlay.opaque",
	"user.fuseoverlayfs.opaque",
}

// PrivateAttr tells whether an extended attribute is the union's own
// bookkeeping, which a view neither shows nor lets anyone set.
func PrivateAttr(attr string) bool {
	return strings.HasPrefix(attr, "trusted.overlay.") ||
		strings.HasPrefix(attr, "user.overlay.") ||
		strings.HasPrefix(attr, "user.fuseoverlayfs.") ||
		strings.HasPrefix(attr, "trusted.varve.") ||
		strings.HasPrefix(attr, "user.varve.")
}
