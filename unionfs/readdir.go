package unionfs

import (
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The place of a name in a directory's stream never changes while it exists:
// 1 and 2 are "." and "..", then come the lower names in the order of the merged
// layers, also those that a file of the upper stands in for, then the names that
// only the upper has, in the order in which they came. So a directory can be read,
// and read on, while it changes.
const (
	dotOff    = 1
	dotdotOff = 2
)

// ReadDir lists names.
func (fs *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.readdir(in, func(_ ref, e fuse.DirEntry) (bool, error) {
		return out.AddDirEntry(e), nil
	})
}

// ReadDirPlus lists names with the attributes of the files, which saves the
// kernel a lookup for each.
func (fs *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if in.Offset == 0 {
		defer fs.listing(in.NodeId)
	}
	return fs.readdir(in, func(dir ref, e fuse.DirEntry) (bool, error) {
		if e.Off <= dotdotOff {
			return out.AddDirLookupEntry(e) != nil, nil
		}
		var entry fuse.EntryOut
		found, err := fs.lookup(dir, e.Name, &entry)
		if err != nil || !found {
			// Gone, or not to be read: listed all the same, and looked up by who wants it.
			entry = fuse.EntryOut{}
		}
		slot := out.AddDirLookupEntry(e)
		if slot == nil {
			if entry.NodeId != 0 {
				fs.forget(entry.NodeId, 1)
			}
			return false, nil
		}
		*slot = entry
		return true, nil
	})
}

// readdir calls add with the entries after in.Offset until it answers false.
func (fs *FS) readdir(in *fuse.ReadIn, add func(dir ref, e fuse.DirEntry) (bool, error)) fuse.Status {
	r, err := fs.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	off := in.Offset
	for {
		// A piece at a time, so that add, which looks files up, holds no lock.
		list, err := fs.entriesAfter(r, off, 64)
		if err != nil || len(list) == 0 {
			return status(err)
		}
		for _, e := range list {
			if ok, err := add(r, e); err != nil || !ok {
				return status(err)
			}
		}
		off = list[len(list)-1].Off
	}
}

// entriesAfter returns up to limit entries whose offset is above off.
func (fs *FS) entriesAfter(r ref, off uint64, limit int) ([]fuse.DirEntry, error) {
	list := make([]fuse.DirEntry, 0, limit)
	if off < dotOff {
		list = append(list, fuse.DirEntry{Name: ".", Mode: unix.S_IFDIR, Off: dotOff})
	}
	if off < dotdotOff {
		list = append(list, fuse.DirEntry{Name: "..", Mode: unix.S_IFDIR, Off: dotdotOff})
	}
	if r.n == nil {
		count, err := fs.tree.count(r.low)
		if err != nil {
			return nil, err
		}
		return fs.lowerEntries(r.low, count, nil, off, list, limit), nil
	}
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	d, err := fs.loadDir(r.n)
	if err != nil {
		return nil, err
	}
	count := 0
	if d.low != noInum {
		if count, err = fs.tree.count(d.low); err != nil {
			return nil, err
		}
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	list = fs.lowerEntries(d.low, count, d.entries, off, list, limit)
	return addedEntries(d, uint64(dotdotOff+count), off, list, limit), nil
}

// lowerEntries adds what the layers have, count names, as the upper changes it.
func (fs *FS) lowerEntries(dir Inum, count int, upper map[string]*upperEntry, off uint64, list []fuse.DirEntry, limit int) []fuse.DirEntry {
	first := 0
	if off > dotdotOff {
		first = int(min(off-dotdotOff, uint64(count)))
	}
	for k := first; k < count && len(list) < limit; k++ {
		n := fs.tree.child(dir, k)
		e := fuse.DirEntry{Name: n.name, Mode: n.kind, Ino: n.ino, Off: uint64(dotdotOff + 1 + k)}
		if u := upper[n.name]; u != nil {
			if u.hidden {
				continue
			}
			e.Mode, e.Ino = u.kind, u.ino
		}
		list = append(list, e)
	}
	return list
}

// addedEntries adds what only the upper has; base is the offset before the first.
func addedEntries(d *upperDir, base, off uint64, list []fuse.DirEntry, limit int) []fuse.DirEntry {
	after := uint64(0)
	if off > base {
		after = off - base
	}
	k, _ := slices.BinarySearchFunc(d.added, after+1, bySeq)
	for ; k < len(d.added) && len(list) < limit; k++ {
		u := d.added[k]
		list = append(list, fuse.DirEntry{Name: u.name, Mode: u.kind, Ino: u.ino, Off: base + u.seq})
	}
	return list
}

// listing tells the layers that a program reads a directory of theirs.
func (fs *FS) listing(id uint64) {
	if r, err := fs.get(id); err == nil && r.low != noInum {
		fs.tree.listing(r.low)
	}
}
