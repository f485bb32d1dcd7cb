package copyup

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// Job says what to bring up and how.
type Job struct {
	// Lower and LowerName are the file: a descriptor of its directory, and its
	// name. Both stay the caller's.
	Lower     int
	LowerName string
	// OpenData opens the data of a regular file that is not empty, for reading, where
	// it is not the file itself that has it; nil: it is. The descriptor is Stage's.
	OpenData func() (int, error)
	// Stat is the lower file's. Its owner, mode and times are given to the copy,
	// so a caller that maps ids puts the mapped ones here.
	Stat unix.Stat_t
	// Work is the work directory, Temp the name for the copy in it, which must
	// not exist yet.
	Work int
	Temp string
	// Ino, if not 0, is noted on the copy as the inode number that it is to be
	// shown with (see [Ino]), where the file system and the kind of file allow it.
	Ino uint64
	// KeepOwner leaves the copy to whoever makes it: for those who may not chown.
	KeepOwner bool
	// Empty makes a regular file without its data, for one that is about to be
	// truncated to nothing.
	Empty bool
	// Metadata makes a regular file of the right size without its data, marked as one
	// whose data is below (overlayfs' metacopy): a [Completion] brings that up later.
	// Where the mark can not be set the data comes now.
	Metadata bool
	// Live says that the lower file may be written to while it is copied, as the files
	// of a running machine are. Else that is ESTALE.
	Live bool
	// Volatile leaves out the fsync before the file is put in place: after a
	// power failure the upper may then hold an empty file.
	Volatile bool

	before func(step string) error // tests make one step after the other fail here
}

// Staged is a finished copy in the work directory.
type Staged struct {
	job  Job
	file int         // a regular file, open for reading and writing; -1: none
	made unix.Stat_t // of a regular file, when it was made
	way  Way
}

// Stage makes the copy in the work directory, complete with owner, mode,
// attributes and times. On an error nothing is left of it. Directories are made
// empty: what is in them is not their file. The caller ends with Publish, Nameless
// or Discard, and Close.
func Stage(job Job) (*Staged, error) {
	s := &Staged{job: job, file: -1}
	err := s.make()
	if err == nil {
		err = s.dress()
	}
	if err != nil {
		s.Discard()
		return nil, fmt.Errorf("copy up %q: %w", job.LowerName, err)
	}
	return s, nil
}

// Metadata tells whether only the metadata of a regular file came, as Job.Metadata
// asks for.
func (s *Staged) Metadata() bool { return s.job.Metadata && s.file >= 0 }

// Copied tells how the data came, and how many bytes of it there are, holes among
// them.
func (s *Staged) Copied() (way Way, bytes int64) {
	if s.way == NoData {
		return NoData, 0
	}
	return s.way, s.job.Stat.Size
}

// Take gives the caller the descriptor of a regular file, open for reading and
// writing; -1 for anything else. It is what is open already: to write is what most
// files are brought up for.
func (s *Staged) Take() int {
	fd := s.file
	s.file = -1
	return fd
}

// Close closes what Take did not take. What was written was synced before.
func (s *Staged) Close() {
	if fd := s.Take(); fd >= 0 {
		_ = unix.Close(fd)
	}
}

// Link gives the copy a further name, for a file that has several, before it is
// published. What is there already is not replaced: that gives EEXIST.
func (s *Staged) Link(dir int, name string) error {
	err := s.job.step("link", func() error { return at.Link(s.job.Work, s.job.Temp, dir, name) })
	if err != nil {
		return fmt.Errorf("copy up %q: %w", s.job.LowerName, err)
	}
	return nil
}

// Publish puts the copy in its place, name in the directory behind dir, in one
// step. What is there already is not replaced: that gives EEXIST, and the copy
// is discarded.
func (s *Staged) Publish(dir int, name string) error {
	err := s.job.step("publish", func() error {
		err := at.Rename(s.job.Work, s.job.Temp, dir, name, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) { // the file system does not know the flag
			err = renameIfAbsent(s.job.Work, s.job.Temp, dir, name)
		}
		return err
	})
	if err != nil {
		s.Discard()
		return fmt.Errorf("copy up %q: %w", s.job.LowerName, err)
	}
	return nil
}

func renameIfAbsent(work int, temp string, dir int, name string) error {
	switch there, err := at.Exists(dir, name); {
	case err != nil:
		return err
	case there:
		return fmt.Errorf("%q: %w", name, unix.EEXIST)
	}
	return at.Rename(work, temp, dir, name, 0)
}

// Nameless gives the copy no name, for a file that was unlinked while it was
// open. The descriptor (O_PATH) is the caller's; the file is gone when it is
// closed.
func (s *Staged) Nameless() (int, error) {
	defer s.Discard()
	return at.Open(s.job.Work, s.job.Temp, unix.O_PATH, 0)
}

// Discard removes the copy, and closes it.
func (s *Staged) Discard() {
	s.Close()
	_ = at.RemoveAll(s.job.Work, s.job.Temp) // what stays is swept at the next mount
}

func (j *Job) step(name string, fn func() error) error {
	if j.before != nil {
		if err := j.before(name); err != nil {
			return err
		}
	}
	return fn()
}

// make makes the file of the right type, with its data, private until it is dressed.
func (s *Staged) make() error {
	j := &s.job
	return j.step("make", func() error {
		switch kind := j.Stat.Mode & unix.S_IFMT; kind {
		case unix.S_IFREG:
			return s.makeRegular()
		case unix.S_IFDIR:
			return at.Mkdir(j.Work, j.Temp, 0o700)
		case unix.S_IFLNK:
			target, err := at.Readlink(j.Lower, j.LowerName)
			if err != nil {
				return err
			}
			return at.Symlink(target, j.Work, j.Temp)
		default:
			return at.Mknod(j.Work, j.Temp, kind|0o600, j.Stat.Rdev)
		}
	})
}

// dress gives the copy what belongs to it beside the data. The order matters:
// attributes come before the mode, which may keep us from setting them; chown
// clears the setuid bit and file capabilities; times come last.
func (s *Staged) dress() error {
	j := &s.job
	if j.Ino != 0 {
		if err := j.step("ino", s.noteIno); err != nil {
			return err
		}
	}
	if !j.KeepOwner && !s.isOwned() {
		if err := j.step("chown", s.chown); err != nil {
			return err
		}
	}
	if err := j.step("xattrs", s.copyXattrs); err != nil {
		return err
	}
	if j.Stat.Mode&unix.S_IFMT != unix.S_IFLNK && !s.hasMode() {
		if err := j.step("chmod", s.chmod); err != nil {
			return err
		}
	}
	return j.step("times", func() error {
		if s.file >= 0 {
			return at.Utimes(s.file, "", j.Stat.Atim, j.Stat.Mtim)
		}
		return at.Utimes(j.Work, j.Temp, j.Stat.Atim, j.Stat.Mtim)
	})
}

// isOwned tells whether a regular file was made with the right owner, so that it needs
// no chown.
func (s *Staged) isOwned() bool {
	return s.file >= 0 && s.made.Uid == s.job.Stat.Uid && s.made.Gid == s.job.Stat.Gid
}

// hasMode tells whether a regular file was made with the right mode. Neither a chown
// that was made after it nor what was written can have changed it: it has no setuid
// or setgid.
func (s *Staged) hasMode() bool {
	return s.file >= 0 && s.made.Mode == s.job.Stat.Mode && s.made.Mode&0o6000 == 0
}

func (s *Staged) chown() error {
	j := &s.job
	if s.file < 0 {
		return at.Chown(j.Work, j.Temp, int(j.Stat.Uid), int(j.Stat.Gid))
	}
	err := unix.Fchown(s.file, int(j.Stat.Uid), int(j.Stat.Gid))
	return pathError("chown", j.Temp, err)
}

func (s *Staged) chmod() error {
	j := &s.job
	if s.file < 0 {
		return at.Chmod(j.Work, j.Temp, j.Stat.Mode&0o7777)
	}
	return pathError("chmod", j.Temp, unix.Fchmod(s.file, j.Stat.Mode&0o7777))
}

func (s *Staged) setxattr(attr string, value []byte) error {
	j := &s.job
	if s.file < 0 {
		return at.Setxattr(j.Work, j.Temp, attr, value, 0)
	}
	return pathError("setxattr "+attr, j.Temp, unix.Fsetxattr(s.file, attr, value, 0))
}

// pathError is as package at has it.
func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}

// copyXattrs copies all attributes but the union's own. One that this process
// may not set, or that the upper's file system does not know, is left out, unless
// it is one that programs set themselves (user.*) or an access list.
func (s *Staged) copyXattrs() error {
	j := &s.job
	attrs, err := at.Listxattr(j.Lower, j.LowerName)
	if err != nil {
		return err
	}
	for _, attr := range attrs {
		if whiteout.PrivateAttr(attr) {
			continue
		}
		value, err := at.Getxattr(j.Lower, j.LowerName, attr)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return err
		}
		err = s.setxattr(attr, value)
		if err != nil && (mustKeep(attr) || !notPermitted(err)) {
			return err
		}
	}
	return nil
}

func mustKeep(attr string) bool {
	return strings.HasPrefix(attr, "user.") || strings.HasPrefix(attr, "system.posix_acl_")
}

func notPermitted(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EOPNOTSUPP)
}
