package index

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// Layer is one read-only layer directory.
type Layer struct {
	// Path of the directory; symbolic links on the way to it are followed.
	Path string
	// ID names what is in it, such as its diff id. Open asks for it again.
	ID string
}

// Build merges layers, top first, and writes their index to path: beside it, then
// renamed, so that for every process path is the index that was there or the new one,
// whole. It is not durable: after a power failure Open may find it damaged. The layers must not change meanwhile, and all of them must be readable:
// an index of less would show less. What is left beside path by a process that was
// killed has its name, "." before and ".new-" behind it.
func Build(path string, layers []Layer) error {
	b, err := newBuilder(layers)
	if err != nil {
		return fmt.Errorf("build index: %w", err)
	}
	defer b.close()
	if err := b.mergeAll(); err != nil {
		return fmt.Errorf("build index: %w", err)
	}
	data, err := b.encode()
	if err != nil {
		return fmt.Errorf("build index: %w", err)
	}
	return replace(path, data)
}

// builder merges layers in memory.
type builder struct {
	roots []int // descriptors of the layers
	devs  []uint64
	ids   []string
	inos  []uint64 // of the roots
	root  entry
}

func newBuilder(layers []Layer) (*builder, error) {
	if len(layers) == 0 || len(layers) >= math.MaxUint16 {
		return nil, fmt.Errorf("%d layers: at least 1, at most %d", len(layers), math.MaxUint16-1)
	}
	b := &builder{}
	root := &dir{}
	for i, l := range layers {
		fd, err := at.OpenRoot(l.Path)
		if err != nil {
			b.close()
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		b.roots = append(b.roots, fd)
		var st unix.Stat_t
		if err := at.Stat(fd, "", &st); err != nil {
			b.close()
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		b.device(st.Dev)
		b.ids, b.inos = append(b.ids, l.ID), append(b.inos, st.Ino)
		root.layers = append(root.layers, uint16(i))
	}
	b.root.sub = root
	if err := b.root.read(b.roots[0], "", 0); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *builder) close() {
	for _, fd := range b.roots {
		_ = unix.Close(fd) // a directory, read only
	}
	b.roots = nil
}

// device numbers the devices in the order in which they appear.
func (b *builder) device(dev uint64) uint64 {
	for k, have := range b.devs {
		if have == dev {
			return uint64(k)
		}
	}
	b.devs = append(b.devs, dev)
	return uint64(len(b.devs) - 1)
}

// open opens a part.
func (b *builder) open(p part) (int, error) {
	return at.Beneath(b.roots[p.layer], p.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOATIME)
}

// mergeAll merges the root and every directory below it, several at once.
func (b *builder) mergeAll() error {
	q := newQueue(b.root.sub)
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 8) {
		workers.Go(func() {
			for d := q.take(); d != nil; d = q.take() {
				found, err := b.merge(d)
				q.done(found, err)
			}
		})
	}
	workers.Wait()
	return errors.Join(q.errs...)
}

// queue is the directories that are still to be merged. The last one comes
// first, which keeps it short.
type queue struct {
	mu   sync.Mutex
	more sync.Cond // there is a directory, or there will be none
	todo []*dir
	busy int // directories that are being merged
	errs []error
}

func newQueue(first *dir) *queue {
	q := &queue{todo: []*dir{first}}
	q.more.L = &q.mu
	return q
}

// take waits for a directory. It returns nil when there are no more.
func (q *queue) take() *dir {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.todo) == 0 && q.busy > 0 {
		q.more.Wait()
	}
	if len(q.todo) == 0 || len(q.errs) > 0 {
		return nil
	}
	d := q.todo[len(q.todo)-1]
	q.todo = q.todo[:len(q.todo)-1]
	q.busy++
	return d
}

// done tells what became of a directory that was taken.
func (q *queue) done(found []*dir, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy--
	q.todo = append(q.todo, found...)
	if err != nil {
		q.errs = append(q.errs, err)
	}
	q.more.Broadcast()
}
