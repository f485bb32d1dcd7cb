package unionfs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// FS is a view. It answers the requests of the kernel; [Mount] makes one and
// serves it.
type FS struct {
	fuse.RawFileSystem // answers ENOSYS to what is not a method of FS

	opt   Options
	tree  lowers
	nodes *nodeTable
	fds   *fdCache

	server   *fuse.Server // nil until Init
	backings backings     // io=passthrough
	figures  *figures     // nil without Options.Stats
	copyUps  copyUps

	upper, work int // -1 in a read-only view
	opaqueRoot  bool
	live        bool // the files of some layer may be written to by others
	metacopy    bool // see makesMetacopies
	dialect     whiteout.Dialect
	umask       uint32
	euid, egid  uint32
	overflowUID uint32
	overflowGID uint32
	tempCount   atomic.Uint64

	adopted  sync.Once // all directories of the upper, see adoptAll
	adoptErr error

	// ns orders what takes names away (unlink, rmdir, rename: for writing) against
	// everything that finds a file by its name (for reading).
	ns sync.RWMutex
}

// newFS opens the layers and prepares the work directory. The options have been
// checked.
func newFS(opt Options) (*FS, error) {
	limit, err := fdLimit(len(opt.Lowers))
	if err != nil {
		return nil, err
	}
	fds := newFDCache(limit)
	tree, err := openLowers(&opt, fds)
	if err != nil {
		return nil, err
	}
	fs := &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		opt:           opt,
		tree:          tree,
		nodes:         newNodeTable(),
		fds:           fds,
		backings:      backings{byNode: make(map[uint64]*backing)},
		figures:       newFigures(&opt),
		live:          slices.ContainsFunc(opt.Lowers, func(l Lower) bool { return l.Live }),
		upper:         -1,
		work:          -1,
		euid:          uint32(os.Geteuid()),
		egid:          uint32(os.Getegid()),
		overflowUID:   overflowID("uid"),
		overflowGID:   overflowID("gid"),
	}
	root := fs.nodes.touch(0, unix.S_IFDIR, tree.ino(0))
	if opt.Upper != "" {
		if err := fs.openUpper(); err != nil {
			fs.close()
			return nil, err
		}
		root.upper.Store(true)
	}
	return fs, nil
}

// openLowers opens the index of the layers, if the options name one, or the layers
// themselves.
func openLowers(opt *Options, fds *fdCache) (lowers, error) {
	if opt.Index != "" {
		if opt.Override != NoOverride {
			return nil, fmt.Errorf("%w: owners are kept in attributes", ErrNoIndex)
		}
		t, err := openIndexed(opt.Index, opt.Lowers, fds)
		if err != nil {
			return nil, err
		}
		return t, nil
	}
	t, err := openTree(opt.Lowers, fds)
	if err != nil {
		return nil, err
	}
	t.override = opt.Override
	return t, nil
}

func (fs *FS) openUpper() (err error) {
	if fs.upper, err = at.OpenRoot(fs.opt.Upper); err != nil {
		return fmt.Errorf("upper directory: %w", err)
	}
	if !hold(fs.upper) {
		return fmt.Errorf("upper directory %q is being rewritten by another process: wait for its end", fs.opt.Upper)
	}
	if fs.work, err = openWork(fs.opt.Work); err != nil {
		return err
	}
	if fs.dialect = fs.opt.Whiteout; fs.dialect == whiteout.Auto {
		if fs.dialect, err = whiteout.Probe(fs.work); err != nil {
			return fmt.Errorf("work directory %q: %w", fs.opt.Work, err)
		}
	}
	if fs.opaqueRoot, err = whiteout.IsOpaque(fs.upper); err != nil {
		return fmt.Errorf("upper directory %q: %w", fs.opt.Upper, err)
	}
	if !fs.opaqueRoot {
		fs.opaqueRoot, err = at.Exists(fs.upper, whiteout.OpaqueName)
	}
	fs.metacopy = fs.makesMetacopies()
	fs.umask = umask()
	return err
}

// hold locks the root of a layer or an upper, shared, as long as it is open, so that
// who rewrites it ([whiteout.Convert]) knows that it is in use. It tells whether the
// lock is held, or the file system has none.
//
// An upper without it is not used. A layer is: each step of a rewriting leaves it
// meaning the same, and whoever may read a layer could keep others from it for good.
func hold(root int) bool {
	return !errors.Is(unix.Flock(root, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// openWork takes hold of the work directory, so that no second view writes to
// the same upper, and removes what an earlier one left unfinished.
func openWork(path string) (int, error) {
	dir, err := at.OpenRoot(path)
	if err != nil {
		return -1, fmt.Errorf("work directory: %w", err)
	}
	defer func() { _ = unix.Close(dir) }() // read only
	if err := at.Mkdir(dir, "work", 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, fmt.Errorf("work directory %q: %w", path, err)
	}
	work, err := at.OpenDir(dir, "work")
	if err != nil {
		return -1, fmt.Errorf("work directory %q: %w", path, err)
	}
	if err := unix.Flock(work, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = unix.Close(work) // read only
		return -1, fmt.Errorf("workdir %q is in use by another mount: unmount that one first, or give this one its own upperdir and workdir", path)
	}
	// A default list would be handed down to all that is prepared here.
	err = at.Removexattr(work, "", aclDefault)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		err = nil
	}
	left, listErr := at.ReadDir(work)
	err = errors.Join(err, listErr)
	for _, e := range left {
		err = errors.Join(err, at.RemoveAll(work, e.Name))
	}
	if err != nil {
		_ = unix.Close(work) // read only
		return -1, fmt.Errorf("sweep work directory %q: %w", path, err)
	}
	return work, nil
}

// close closes all descriptors. No request may be under way.
func (fs *FS) close() {
	fs.tree.Close()
	for _, n := range fs.nodes.byID {
		fs.closeNode(n)
	}
	for _, page := range fs.nodes.low {
		for i := range page {
			if n := page[i].node.Load(); n != nil {
				fs.closeNode(n)
			}
		}
	}
	for _, fd := range []int{fs.upper, fs.work} {
		if fd >= 0 {
			_ = unix.Close(fd) // directories
		}
	}
}

// temp is a name for something unfinished in the work directory, which is ours
// alone while the view lives.
func (fs *FS) temp() string { return "t" + strconv.FormatUint(fs.tempCount.Add(1), 36) }

func (fs *FS) readOnly() bool { return fs.upper < 0 }

// umask of this process. There is no way to ask for it without setting it, but
// in /proc.
func umask() uint32 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0o777 // unknown: modes are set once more after a file is made
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "Umask:"); ok {
			if mask, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32); err == nil {
				return uint32(mask)
			}
		}
	}
	return 0o777
}

func overflowID(kind string) uint32 {
	text, err := os.ReadFile("/proc/sys/kernel/overflow" + kind)
	if err == nil {
		if id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32); err == nil {
			return uint32(id)
		}
	}
	return 65534 // the default, see proc(5)
}
