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
	// Same is an error if the regular file that was found by that name is not the one of
	// Stat; nil: it is.
	Same func(opened *unix.Stat_t) error
	// OpenData opens the data, for reading, of a regular file that is marked as one of
	// which its layer has only the metadata. The descriptor is Stage's.
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
	// Instead, if not nil, is what is in the copy, a regular file that stands for a lower file
	// of whatever kind; Stat.Mode is that of the copy then.
	Instead []byte
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

// Staged is a finished copy. A regular file has no name yet, where the file system
// knows such (O_TMPFILE); all else has one in the work directory.
type Staged struct {
	job   Job
	file  int         // a regular file, open for reading and writing, or a directory; -1: none
	made  unix.Stat_t // of these, when it was made
	named bool        // it is in the work directory
	from  source
	way   Way
}

// Stage makes the copy, on the file system of the work directory, complete with owner, mode,
// attributes and times. On an error nothing is left of it. Directories are made
// empty: what is in them is not their file. The caller ends with Publish, Nameless
// or Discard, and Close.
func Stage(job Job) (*Staged, error) {
	s := &Staged{job: job, file: -1, from: source{file: -1}}
	err := s.make()
	if err == nil {
		err = s.dress()
	}
	if err == nil {
		err = s.from.unchanged(job.Live)
	}
	s.from.close()
	if err != nil {
		s.Discard()
		return nil, fmt.Errorf("copy up %q: %w", job.LowerName, err)
	}
	return s, nil
}

// Metadata tells whether only the metadata of a regular file came, as Job.Metadata
// asks for.
func (s *Staged) Metadata() bool { return s.job.Metadata && s.isRegular() }

func (s *Staged) isRegular() bool { return s.job.Stat.Mode&unix.S_IFMT == unix.S_IFREG }

// Checked tells whether all that came of the lower file was read through one
// descriptor, and the file was the same before and after. Of another what was read by
// name may be of another file by now.
func (s *Staged) Checked() bool { return s.from.checked }

// Copied tells how the data came, and how many bytes of it there are, holes among
// them.
func (s *Staged) Copied() (way Way, bytes int64) {
	if s.way == NoData {
		return NoData, 0
	}
	return s.way, s.job.Stat.Size
}

// Take gives the caller the descriptor of a regular file, open for reading and
// writing, or of a directory, open for reading; -1 for anything else. It is what is open
// already: to write is what most files are brought up for, and directories to have
// something in them.
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
	err := s.job.step("link", func() error { return s.link(dir, name) })
	if err != nil {
		return fmt.Errorf("copy up %q: %w", s.job.LowerName, err)
	}
	return nil
}

// Publish puts the copy in its place, name in the directory behind dir, in one
// step. What is there already is not replaced: that gives EEXIST, and the copy
// is discarded.
func (s *Staged) Publish(dir int, name string) error {
	err := s.job.step("publish", func() error { return s.publish(dir, name) })
	if err != nil {
		s.Discard()
		return fmt.Errorf("copy up %q: %w", s.job.LowerName, err)
	}
	return nil
}

func (s *Staged) link(dir int, name string) error {
	if !s.named {
		return at.LinkFD(s.file, dir, name)
	}
	return at.Link(s.job.Work, s.job.Temp, dir, name)
}

func (s *Staged) publish(dir int, name string) error {
	if !s.named {
		return at.LinkFD(s.file, dir, name)
	}
	err := at.Rename(s.job.Work, s.job.Temp, dir, name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) { // the file system does not know the flag
		err = renameIfAbsent(s.job.Work, s.job.Temp, dir, name)
	}
	return err
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
	if !s.named {
		return at.Reopen(s.file, unix.O_PATH)
	}
	return at.Open(s.job.Work, s.job.Temp, unix.O_PATH, 0)
}

// Discard removes the copy, and closes it.
func (s *Staged) Discard() {
	s.Close()
	if s.named {
		_ = at.RemoveAll(s.job.Work, s.job.Temp) // what stays is swept at the next mount
	}
}

// Place is where the copy is to be found until it is published, as package at takes
// it: a name in a directory, or a descriptor and "".
func (s *Staged) Place() (dir int, name string) {
	if s.file >= 0 {
		return s.file, ""
	}
	return s.job.Work, s.job.Temp
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
		kind := j.Stat.Mode & unix.S_IFMT
		s.named = kind != unix.S_IFREG
		switch kind {
		case unix.S_IFREG:
			return s.makeRegular()
		case unix.S_IFDIR:
			return s.makeDir()
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
		dir, name := s.Place()
		return at.Utimes(dir, name, j.Stat.Atim, j.Stat.Mtim)
	})
}

// makeDir makes a directory and opens it.
func (s *Staged) makeDir() (err error) {
	j := &s.job
	// As makeRegular does with the mode.
	if err := at.Mkdir(j.Work, j.Temp, j.Stat.Mode&0o777|0o700); err != nil {
		return err
	}
	if s.file, err = at.OpenDir(j.Work, j.Temp); err != nil {
		return err
	}
	return os.NewSyscallError("fstat", unix.Fstat(s.file, &s.made))
}

// isOwned tells whether a file was made with the right owner, so that it needs
// no chown.
func (s *Staged) isOwned() bool {
	return s.file >= 0 && s.made.Uid == s.job.Stat.Uid && s.made.Gid == s.job.Stat.Gid
}

// hasMode tells whether a file was made with the right mode. Neither a chown
// that was made after it nor what was written can have changed it: it has no setuid
// or setgid.
func (s *Staged) hasMode() bool {
	return s.file >= 0 && s.made.Mode == s.job.Stat.Mode && s.made.Mode&0o6000 == 0
}

func (s *Staged) chown() error {
	dir, name := s.Place()
	return at.Chown(dir, name, int(s.job.Stat.Uid), int(s.job.Stat.Gid))
}

func (s *Staged) chmod() error {
	dir, name := s.Place()
	return at.Chmod(dir, name, s.job.Stat.Mode&0o7777)
}

func (s *Staged) setxattr(attr string, value []byte) error {
	dir, name := s.Place()
	return at.Setxattr(dir, name, attr, value, 0)
}

// copyXattrs copies all attributes but the union's own. One that this process
// may not set, or that the upper's file system does not know, is left out, unless
// it is one that programs set themselves (user.*) or an access list.
func (s *Staged) copyXattrs() error {
	dir, name := s.from.file, ""
	attrs := s.from.attrs
	if dir < 0 {
		var err error
		dir, name = s.job.Lower, s.job.LowerName
		if attrs, err = at.Listxattr(dir, name); err != nil {
			return err
		}
	}
	for _, attr := range attrs {
		if whiteout.PrivateAttr(attr) {
			continue
		}
		value, err := at.Getxattr(dir, name, attr)
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
