package archive

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/layout"
)

// Unsquash puts the true owner, mode and type into Stat, where they are kept in
// OverrideAttr, and the target of a symbolic link into Link. It is for a process that has
// one user id only; elsewhere anyone inside a container can set that attribute, so there it
// says nothing.
func (f *File) Unsquash() error {
	value, ok := f.Xattrs[layout.OverrideAttr]
	kind := f.Stat.Mode & unix.S_IFMT
	if !ok || kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil
	}
	a, err := owners{squash: true}.attrsFrom(&f.Stat, map[string][]byte{layout.OverrideAttr: value})
	if err != nil {
		return fmt.Errorf("%s: %w", quote("/"+f.Path), err)
	}
	f.Stat.Uid, f.Stat.Gid, f.Stat.Mode = uint32(a.uid), uint32(a.gid), kind|a.mode
	if a.standsFor == "" {
		return nil
	}
	kind, rdev := a.kind(&f.Stat)
	if err := f.become(kind, rdev); err != nil {
		return fmt.Errorf("%s: %w", quote("/"+f.Path), err)
	}
	return nil
}
