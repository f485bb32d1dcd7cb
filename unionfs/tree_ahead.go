package unionfs

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A program that walks a tree reads one directory after the other, and asks for the
// attributes of all that is in them. While it looks at one, those below it are merged
// here, and their files looked at, on another core. A third of the time of a first walk
// was spent on that (docs/performance.md).

// aheadDirs is how many directories below one are read ahead at most, and aheadFiles
// how many files of each: about what one answer to READDIRPLUS has.
const (
	aheadDirs  = 64
	aheadFiles = 256
)

// ahead reads ahead, from the first walk on until it is stopped.
type ahead struct {
	mu      sync.Mutex
	dirs    chan Inum // whose subdirectories are to be read; nil: nobody reads
	reader  sync.WaitGroup
	stopped atomic.Bool
}

// listing notes that a program reads the merged directory n from its beginning. That is
// taken for a walk if one has read its parent before. The files of a running machine
// are left alone.
func (t *Tree) listing(n Inum) {
	i := t.inode(n)
	if d := i.dir.Load(); d == nil || d.listed.Swap(true) || n == 0 || t.live {
		return
	}
	if t.inode(i.parent).dir.Load().listed.Load() {
		t.next.ask(t, n)
	}
}

func (a *ahead) ask(t *Tree, n Inum) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped.Load() {
		return
	}
	if a.dirs == nil {
		a.dirs = make(chan Inum, 16)
		a.reader.Go(func() { a.read(t, a.dirs) })
	}
	select {
	case a.dirs <- n:
	default: // it is behind
	}
}

// stop ends reading ahead, and waits for what is under way.
func (a *ahead) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dirs != nil && !a.stopped.Swap(true) {
		close(a.dirs)
	}
	a.reader.Wait()
}

// read looks into the subdirectories of dirs, but for the first of each, which the
// program is about to read itself.
func (a *ahead) read(t *Tree, dirs <-chan Inum) {
	for n := range dirs {
		count := 0
		for _, e := range t.inode(n).dir.Load().names {
			if e.kind != unix.S_IFDIR {
				continue
			}
			if count++; count > aheadDirs || a.stopped.Load() {
				break
			}
			if count > 1 {
				t.readAhead(e.inum)
			}
		}
	}
}

// readAhead merges a directory and looks at its files, as far as that takes no search
// for their other names. What fails is told to who asks for it.
func (t *Tree) readAhead(n Inum) {
	d, err := t.load(n)
	if err != nil {
		return
	}
	for _, e := range d.names[:min(len(d.names), aheadFiles)] {
		i := t.inode(e.inum)
		if i.stat.Load() != nil {
			continue
		}
		if st, err := t.readStat(e.inum); err == nil && (st.Nlink <= 1 || e.kind == unix.S_IFDIR) {
			i.stat.Store(st)
		}
	}
}
