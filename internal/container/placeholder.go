package container

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// IsPlaceholder tells whether what is at path in an upper, where the layers below have
// nothing, is only what a container's own files and file systems are mounted on. It is
// no change of the program's. (A directory with more in it is that because of what is
// in it.)
func IsPlaceholder(path string, st *unix.Stat_t) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return slices.Contains([]string{"dev", "etc", "proc", "sys"}, path)
	case unix.S_IFREG:
		name, inEtc := strings.CutPrefix(path, "etc/")
		return inEtc && st.Size == 0 && slices.Contains(EtcNames(), name)
	}
	return false
}
