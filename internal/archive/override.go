package archive

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/layout"
)

// Unsquash puts the true owner, mode and device into Stat, where they are kept in
// OverrideAttr. It is for a process that has one user id only; elsewhere anyone
// inside a container can set that attribute, so there it says nothing.
func (f *File) Unsquash() error {
	value, ok := f.Xattrs[layout.OverrideAttr]
	kind := f.Stat.Mode & unix.S_IFMT
	if !ok || kind == unix.S_IFLNK {
		return nil
	}
	var a attrs
	if err := a.parseOverride(string(value)); err != nil {
		return fmt.Errorf("%s: %w", quote("/"+f.Path), err)
	}
	if a.device != "" && kind == unix.S_IFREG {
		var err error
		if kind, f.Stat.Rdev, err = parseDevice(a.device); err != nil {
			return fmt.Errorf("%s: %w", quote("/"+f.Path), err)
		}
	}
	f.Stat.Uid, f.Stat.Gid, f.Stat.Mode = uint32(a.uid), uint32(a.gid), kind|a.mode
	return nil
}
