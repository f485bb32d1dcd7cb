package unionfs

import "golang.org/x/sys/unix"

// visible returns those of the names of a lower file that the view shows.
func (fs *FS) visible(names []lowerPlace) (list []lowerPlace, err error) {
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	if err := fs.adoptAll(); err != nil {
		return nil, err
	}
	for _, name := range names {
		ok, err := fs.viewShows(name)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, name)
		}
	}
	return list, nil
}

// viewOf finds the lower directory low in the view: at its place in the upper, or
// under its own name in the directory that its lower parent is now.
// Preconditions: fs.ns is held for reading, and adoptAll was called.
func (fs *FS) viewOf(low Inum) (r ref, ok bool, err error) {
	n := fs.nodes.slot(low).node.Load()
	if n != nil && n.upper.Load() {
		return ref{n, low}, !n.dir.isRemoved(), nil
	}
	names, err := fs.tree.names(low)
	if err != nil {
		return ref{}, false, err
	}
	ok, err = fs.viewShows(names[0])
	return ref{n, low}, ok && !fs.nodes.slot(low).gone.Load(), err
}

// viewShows tells whether the view shows a lower name where its directory is.
// Preconditions: as viewOf.
func (fs *FS) viewShows(name lowerPlace) (bool, error) {
	parent, ok, err := fs.viewOf(name.dir)
	if !ok || err != nil || parent.n == nil {
		return ok, err
	}
	return fs.shows(parent.n, name.name)
}

func (d *upperDir) isRemoved() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.removed
}

// shows tells whether the lower name shows through the directory n.
// Preconditions: fs.ns is held for reading.
func (fs *FS) shows(n *node, name string) (bool, error) {
	d, err := fs.loadDir(n)
	if err != nil {
		return false, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.entries[name] == nil && d.low != noInum && !d.removed, nil
}

// adoptAll looks at all directories of the upper once, so that it is known where
// those went that an earlier mount moved.
// Preconditions: fs.ns is held for reading.
func (fs *FS) adoptAll() error {
	fs.adopted.Do(func() {
		dirs := []*node{fs.nodes.slot(0).node.Load()}
		for len(dirs) > 0 && fs.adoptErr == nil {
			n := dirs[len(dirs)-1]
			dirs = dirs[:len(dirs)-1]
			var below []*node
			below, fs.adoptErr = fs.adoptDirs(n)
			dirs = append(dirs, below...)
		}
	})
	return fs.adoptErr
}

// adoptDirs makes the records of the directories of the upper in n.
func (fs *FS) adoptDirs(n *node) (list []*node, err error) {
	d, err := fs.loadDir(n)
	if err != nil {
		return nil, err
	}
	var names []string
	d.mu.RLock()
	for name, e := range d.entries {
		if !e.hidden && e.kind == unix.S_IFDIR {
			names = append(names, name)
		}
	}
	d.mu.RUnlock()
	for _, name := range names {
		r, ok, err := fs.childLocked(n, name)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, r.n)
		}
	}
	return list, nil
}
