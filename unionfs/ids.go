package unionfs

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/copyup"
	"github.com/varvefs/varve/internal/at"
)

// Owners go through three steps from the disk to a program, and back:
//
//  1. what the file itself has, or its attribute of [Override] in the place of that;
//  2. Options.OverflowRoot;
//  3. Options.UIDs and GIDs, or the squash that makes all owners one.
//
// What is kept on the disk, also in the attribute, is never squashed or mapped, so
// one store serves views with different ids.

// IDRange shows the ids OnDisk, OnDisk+1, … of layers and upper as Shown, Shown+1,
// …, Length of them. It is one triple of fuse-overlayfs' uidmapping.
type IDRange struct{ OnDisk, Shown, Length uint32 }

// shownID returns how an id of the disk is shown. One outside all ranges has none.
func shownID(ranges []IDRange, id uint32) (uint32, bool) {
	for _, r := range ranges {
		if id-r.OnDisk < r.Length && id >= r.OnDisk {
			return r.Shown + (id - r.OnDisk), true
		}
	}
	return id, len(ranges) == 0
}

// diskID is the way back.
func diskID(ranges []IDRange, id uint32) (uint32, bool) {
	for _, r := range ranges {
		if id-r.Shown < r.Length && id >= r.Shown {
			return r.OnDisk + (id - r.Shown), true
		}
	}
	return id, len(ranges) == 0
}

// checkIDs refuses ranges that leave an id two meanings.
func checkIDs(what string, ranges []IDRange) error {
	for i, r := range ranges {
		if r.Length == 0 || uint64(r.OnDisk)+uint64(r.Length) > 1<<32 || uint64(r.Shown)+uint64(r.Length) > 1<<32 {
			return fmt.Errorf("%s: %d:%d:%d is no range of ids", what, r.OnDisk, r.Shown, r.Length)
		}
		if slices.ContainsFunc(ranges[:i], r.overlaps) {
			return fmt.Errorf("%s: %d:%d:%d overlaps another range", what, r.OnDisk, r.Shown, r.Length)
		}
	}
	return nil
}

func (r IDRange) overlaps(o IDRange) bool {
	meet := func(a, b uint32) bool {
		return uint64(a) < uint64(b)+uint64(o.Length) && uint64(b) < uint64(a)+uint64(r.Length)
	}
	return meet(r.OnDisk, o.OnDisk) || meet(r.Shown, o.Shown)
}

// shownOwner is the owner that programs see of a file that has st on the disk. An
// id without a place in the ranges is the overflow id, as in a user namespace.
func (fs *FS) shownOwner(st *unix.Stat_t) (uid, gid uint32) {
	uid, gid = st.Uid, st.Gid
	if fs.opt.OverflowRoot && uid == fs.overflowUID {
		uid = 0
	}
	if fs.opt.OverflowRoot && gid == fs.overflowGID {
		gid = 0
	}
	return shown(fs.opt.UIDs, fs.opt.SquashUID, uid, fs.overflowUID),
		shown(fs.opt.GIDs, fs.opt.SquashGID, gid, fs.overflowGID)
}

func shown(ranges []IDRange, squash *uint32, id, overflow uint32) uint32 {
	if squash != nil {
		return *squash
	}
	if to, ok := shownID(ranges, id); ok {
		return to
	}
	return overflow
}

// copiedOwner is the owner of a copy of a layer's file in the upper: as on the
// disk, but the overflow id is root if it is shown so.
func (fs *FS) copiedOwner(st *unix.Stat_t) (uid, gid uint32) {
	uid, gid = st.Uid, st.Gid
	if fs.opt.OverflowRoot && uid == fs.overflowUID {
		uid = 0
	}
	if fs.opt.OverflowRoot && gid == fs.overflowGID {
		gid = 0
	}
	return uid, gid
}

// hiddenOwner is the owner of a file that is shown as another's, if Options.Tell wants to know.
func (fs *FS) hiddenOwner(st *unix.Stat_t) (uid, gid uint32, hidden bool) {
	if fs.opt.Tell == nil {
		return 0, 0, false
	}
	uid, gid = fs.copiedOwner(st)
	shownUID, shownGID := fs.shownOwner(st)
	return uid, gid, uid != shownUID || gid != shownGID
}

// attrValidity is how long the kernel may keep the attributes of a file.
func (fs *FS) attrValidity(st *unix.Stat_t) time.Duration {
	if _, _, hidden := fs.hiddenOwner(st); hidden {
		return 0
	}
	return fs.opt.validity()
}

// tell has a thread that waits for attributes told the owner that these do not show.
func (fs *FS) tell(pid uint32, st *unix.Stat_t) {
	if uid, gid, hidden := fs.hiddenOwner(st); hidden {
		fs.opt.Tell(pid, st.Ino, uid, gid)
	}
}

// creator is the owner on the disk of what uid and gid make in the view. Somebody
// outside the ranges, such as the engine of containers as root of the machine,
// makes files of the overflow id, as with fuse-overlayfs.
func (fs *FS) creator(uid, gid uint32) (diskUID, diskGID uint32) {
	diskUID, ok := diskID(fs.opt.UIDs, uid)
	if !ok {
		diskUID = fs.overflowUID
	}
	if diskGID, ok = diskID(fs.opt.GIDs, gid); !ok {
		diskGID = fs.overflowGID
	}
	return diskUID, diskGID
}

// newOwner is the owner on the disk that a chown asks for; -1 is none. An id
// outside the ranges is EOVERFLOW, as the kernel says on mounts with mapped ids.
func (fs *FS) newOwner(uid, gid int) (diskUID, diskGID int, err error) {
	diskUID, diskGID = uid, gid
	if uid >= 0 {
		id, ok := diskID(fs.opt.UIDs, uint32(uid))
		if diskUID = int(id); !ok {
			return 0, 0, fmt.Errorf("uid %d is in none of the ranges: %w", uid, unix.EOVERFLOW)
		}
	}
	if gid >= 0 {
		id, ok := diskID(fs.opt.GIDs, uint32(gid))
		if diskGID = int(id); !ok {
			return 0, 0, fmt.Errorf("gid %d is in none of the ranges: %w", gid, unix.EOVERFLOW)
		}
	}
	return diskUID, diskGID, nil
}

// statHere is at.Stat with the attribute of the override in the place of what the
// file itself has.
func (o Override) statHere(dir int, name string, st *unix.Stat_t) error {
	if err := at.Stat(dir, name, st); err != nil {
		return err
	}
	return o.read(dir, name, st)
}

// stageKept is stage where the override keeps owners: the copy is ours, and what
// the view shows of the file goes to the copy's attribute.
func (fs *FS) stageKept(n *node, job copyup.Job) (staged *copyup.Staged, err error) {
	show := job.Stat
	job.KeepOwner = true
	err = fs.tree.at(n.low, func(dir int, name string) error {
		if err := at.Stat(dir, name, &job.Stat); err != nil {
			return err
		}
		real, shown := job.Stat.Mode&unix.S_IFMT, show.Mode&unix.S_IFMT
		if real == unix.S_IFREG && shown != real || fs.standsIn(shown) {
			if job.Instead, err = fs.opt.Override.standIn(dir, name, shown); err != nil {
				return err
			}
			real = unix.S_IFREG
		}
		job.Stat.Mode = real | realMode(real, show.Mode)
		job.Lower, job.LowerName = dir, name
		staged, err = copyup.Stage(job)
		return err
	})
	if err != nil {
		return nil, err
	}
	dir, name := staged.Place()
	if err := fs.opt.Override.write(dir, name, &show); err != nil {
		staged.Discard()
		return nil, fmt.Errorf("copy up %q: %w", job.LowerName, err)
	}
	return staged, nil
}

// restat changes what the view shows of n in the upper, where the override keeps
// it. change gets the attributes as they are on the disk, owners unmapped.
func (fs *FS) restat(n *node, change func(st *unix.Stat_t)) error {
	return fs.withUpper(n, func(dir int, name string) error {
		var st unix.Stat_t
		if err := fs.opt.Override.statHere(dir, name, &st); err != nil {
			return err
		}
		change(&st)
		return fs.opt.Override.write(dir, name, &st)
	})
}

// chownKept is chown where the override keeps owners. As the kernel does for a
// real one, whoever asks, it takes away setuid and setgid bits, and capabilities.
func (fs *FS) chownKept(n *node, uid, gid int) error {
	err := fs.restat(n, func(st *unix.Stat_t) {
		if uid >= 0 {
			st.Uid = uint32(uid)
		}
		if gid >= 0 {
			st.Gid = uint32(gid)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			st.Mode = withoutPriv(st.Mode)
		}
	})
	if err != nil || n.kind != unix.S_IFREG {
		return err
	}
	err = fs.withUpper(n, func(dir int, name string) error { return at.Removexattr(dir, name, "security.capability") })
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // it has none, or we could not have set one
	}
	return err
}

// withoutPriv is a mode without setuid, and without setgid of what a group may
// execute (without that it meant mandatory locking, and stays).
func withoutPriv(mode uint32) uint32 {
	kept := mode &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		kept &^= unix.S_ISGID
	}
	return kept
}
