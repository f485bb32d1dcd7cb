package unionfs

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A lower file with several names has one number, and so one node: that of the
// name that was found first. The other names are only searched for, all over the
// tree, when they matter: when the file is brought up, so that its names stay
// together, and to count them where a layer above may hide some.

// linkTable knows the lower files that have several names.
type linkTable struct {
	mu   sync.Mutex
	one  map[linkKey]Inum // the number that stands for all names
	scan sync.Once
	err  error // of the scan
	all  map[linkKey][]Inum
}

// linkKey is a file on the disk, whatever its name: its layer and its inode
// number, made unique over devices.
type linkKey struct {
	layer uint16
	ino   uint64
}

// canon returns the number that stands for all names of n.
func (t *Tree) canon(n Inum) (Inum, error) {
	i := t.inode(n)
	if i.kind == unix.S_IFDIR || t.layers[i.layers[0]].live {
		return n, nil
	}
	st, err := t.Stat(n)
	if err != nil || st.Nlink <= 1 {
		return n, err
	}
	t.links.mu.Lock()
	defer t.links.mu.Unlock()
	key := linkKey{i.layers[0], st.Ino}
	if one, ok := t.links.one[key]; ok {
		return one, nil
	}
	if t.links.one == nil {
		t.links.one = make(map[linkKey]Inum)
	}
	t.links.one[key] = n
	return n, nil
}

// names returns all names of n that the tree shows.
func (t *Tree) names(n Inum) (list []lowerPlace, err error) {
	i := t.inode(n)
	st, err := t.Stat(n)
	if err != nil {
		return nil, err
	}
	numbers := []Inum{n}
	if st.Nlink > 1 && i.kind != unix.S_IFDIR && !t.layers[i.layers[0]].live {
		if numbers, err = t.namesOf(n, linkKey{i.layers[0], st.Ino}); err != nil {
			return nil, err
		}
	}
	for _, one := range numbers {
		i := t.inode(one)
		list = append(list, lowerPlace{i.parent, i.name})
	}
	return list, nil
}

func (t *Tree) namesOf(n Inum, key linkKey) ([]Inum, error) {
	t.links.scan.Do(func() { t.links.all, t.links.err = t.scanLinks() })
	if names := t.links.all[key]; len(names) > 0 || t.links.err != nil {
		return names, t.links.err
	}
	return []Inum{n}, nil // its other names are hidden, or outside the layer
}

// countLinks corrects the link count of a file whose other names may be hidden.
func (t *Tree) countLinks(i *inode, st *unix.Stat_t) error {
	layer := i.layers[0]
	if layer == 0 || t.layers[layer].live {
		return nil // nothing is above that could hide a name
	}
	names, err := t.namesOf(noInum, linkKey{layer, st.Ino})
	setCount(&st.Nlink, len(names))
	return err
}

// setCount sets a field whose type is another on other kinds of processors.
func setCount[T uint32 | uint64](field *T, names int) { *field = T(max(names, 1)) }

// scanLinks reads all directories and returns the files of several names. It
// goes by the inode numbers in the directories, and asks for no attributes.
func (t *Tree) scanLinks() (map[linkKey][]Inum, error) {
	first := make(map[linkKey]Inum)
	all := make(map[linkKey][]Inum)
	err := t.loadAll(func(d *lowerDir) {
		for _, e := range d.names {
			if e.kind == unix.S_IFDIR {
				continue
			}
			key := linkKey{t.inode(e.inum).layers[0], e.ino}
			if one, ok := first[key]; !ok {
				first[key] = e.inum
			} else if all[key] == nil {
				all[key] = []Inum{one, e.inum}
			} else {
				all[key] = append(all[key], e.inum)
			}
		}
	})
	return all, err
}

// loadAll merges every directory, on all cores, and calls fn with one after the other.
func (t *Tree) loadAll(fn func(d *lowerDir)) error {
	for level := []Inum{0}; len(level) > 0; {
		if err := t.loadSome(level); err != nil {
			return err
		}
		var below []Inum
		for _, n := range level {
			d := t.inode(n).dir.Load()
			fn(d)
			for _, e := range d.names {
				if e.kind == unix.S_IFDIR {
					below = append(below, e.inum)
				}
			}
		}
		level = below
	}
	return nil
}

// loadSome merges these directories, on all cores.
func (t *Tree) loadSome(dirs []Inum) error {
	var next atomic.Int64
	errs := make([]error, min(runtime.NumCPU(), len(dirs)))
	var wg sync.WaitGroup
	for worker := range errs {
		wg.Go(func() {
			for k := next.Add(1) - 1; k < int64(len(dirs)) && errs[worker] == nil; k = next.Add(1) - 1 {
				_, errs[worker] = t.load(dirs[k])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
