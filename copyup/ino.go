package copyup

import (
	"strconv"

	"github.com/varvefs/varve/internal/at"
)

// A file keeps its inode number when it is brought up, so it is noted on the
// copy: in an attribute of root's where we may, else in one that every owner of a
// regular file or directory may set. Of other files, made by other users, the
// number changes with the next mount.
var inoAttrs = [...]string{"trusted.varve.ino", "user.varve.ino"}

func (s *Staged) noteIno() error {
	value := strconv.AppendUint(nil, s.job.Ino, 10)
	var err error
	for _, attr := range inoAttrs {
		if err = s.setxattr(attr, value); err == nil {
			return nil
		}
	}
	if notPermitted(err) {
		return nil
	}
	return err
}

// Ino returns the inode number that was noted on name in dir when it was brought
// up, or 0 if none was.
func Ino(dir int, name string) uint64 {
	for _, attr := range inoAttrs {
		value, err := at.Getxattr(dir, name, attr)
		if err != nil {
			continue // almost always: no such attribute
		}
		if ino, err := strconv.ParseUint(string(value), 10, 64); err == nil {
			return ino
		}
	}
	return 0
}
