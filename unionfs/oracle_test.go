package unionfs

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/index"
	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/whiteout"
)

// oracleSteps is how many operations TestOracle does in all.
var oracleSteps = flag.Int("oracle.steps", 100000, "operations of the random test against a plain directory")

// TestOracle has two other processes do random operations on a view and on a plain
// directory that began with the same files, one at a time and both at once, and
// compares each answer; then the two trees; then it hashes the lower layers, which
// must be as they were. The first mode of I/O gets two fifths of the operations.
func TestOracle(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		steps := *oracleSteps / 5
		if mode == Cached {
			steps *= 2
		}
		testOracle(t, mode, steps)
	})
}

// oracleFor is how long TestSoak goes on.
var oracleFor = flag.Duration("oracle.for", 0, "how long the soak test runs; 0: it is left out")

// TestSoak is TestOracle for hours: `make soak`. Each round has a seed of its own,
// which it prints, and which -rapid.seed begins with again.
func TestSoak(t *testing.T) {
	if *oracleFor == 0 {
		t.Skip("runs for hours: make soak DURATION=1h")
	}
	const perRound = 20000
	begin := time.Now()
	for round := 1; time.Since(begin) < *oracleFor && !t.Failed(); round++ {
		mode := append([]Mode{Cached}, otherModes...)[(round-1)%4]
		seed := flag.Lookup("rapid.seed").Value.String()
		if seed == "0" {
			seed = fmt.Sprint(uint32(time.Now().UnixNano()) | 1)
		}
		t.Run(fmt.Sprintf("%d %v", round, mode), func(t *testing.T) {
			needsMode(t, mode)
			setFlag(t, "rapid.seed", seed)
			fmt.Printf("%v: round %d, io=%v, again with: go test ./unionfs -run '^TestOracle$/^%v$' -oracle.steps=%d -rapid.seed=%s\n",
				time.Since(begin).Round(time.Second), round, mode, mode, perRound, seed)
			testOracle(t, mode, perRound)
		})
	}
}

func testOracle(t *testing.T, mode Mode, operations int) {
	defer unix.Umask(unix.Umask(0o027))
	setFlag(t, "rapid.checks", "4")
	setFlag(t, "rapid.steps", "300") // on average, in a check
	clients := [2]*client{startClient(t), startClient(t)}
	for steps := 0; steps < operations && !t.Failed(); {
		rapid.Check(t, func(rt *rapid.T) {
			o := newOracle(t, rt, mode, clients)
			defer o.close()
			rt.Repeat(map[string]func(*rapid.T){
				"operation": func(rt *rapid.T) { o.step(rt); steps += o.done; o.done = 0 },
			})
			o.compareTrees(rt)
		})
		nextSeed(t)
	}
}

// nextSeed goes on from a seed that was given, or every round would be the same.
func nextSeed(t *testing.T) {
	seed := flag.Lookup("rapid.seed")
	if n, err := strconv.ParseUint(seed.Value.String(), 10, 64); err == nil && n != 0 {
		require.NoError(t, flag.Set("rapid.seed", fmt.Sprint(n+1)))
	}
}

// setFlag sets a flag of the test binary for this test.
func setFlag(t *testing.T, name, value string) {
	t.Helper()
	before := flag.Lookup(name).Value.String()
	require.NoError(t, flag.Set(name, value))
	t.Cleanup(func() { require.NoError(t, flag.Set(name, before)) })
}

// oracle is a view and a plain directory that should be the same.
type oracle struct {
	t       *testing.T
	w       *world
	clients [2]*client
	opt     Options
	plain   string
	before  map[string]string // hashes of the lower layers
	inos    map[string]uint64 // inode numbers of the view, by file of the plain directory
	caps    bool              // files have capabilities, and no setuid
	done    int               // operations that were not counted yet
	history []string          // of the operations
}

func newOracle(t *testing.T, rt *rapid.T, mode Mode, clients [2]*client) *oracle {
	o := &oracle{t: t, w: newWorld(t, 3), clients: clients, inos: map[string]uint64{}}
	for _, region := range regions {
		fillRegion(rt, o.w, region)
	}
	o.caps = testenv.IsRoot() && rapid.Bool().Draw(rt, "capabilities")
	dressLayers(rt, o.w, o.caps)
	o.opt = o.w.options()
	if testenv.IsRoot() && rapid.IntRange(0, 3).Draw(rt, "owners in attributes") == 0 {
		o.opt.Override = OverrideUser
		o.opt.StandIns = rapid.IntRange(0, 3).Draw(rt, "real links") != 0
		standInLayers(rt, o.w)
	}
	o.before = hashTrees(rt, o.w.lowers)
	o.opt.Volatile = true
	o.opt.Suid, o.opt.Dev = testenv.IsRoot(), testenv.IsRoot()
	o.opt.IO = mode
	o.opt.Whiteout = rapid.SampledFrom([]whiteout.Dialect{whiteout.Overlay, whiteout.OCI}).Draw(rt, "dialect")
	o.opt.NoMetacopy = rapid.IntRange(0, 3).Draw(rt, "no metacopy") == 0
	o.opt.NoRedirect = rapid.IntRange(0, 3).Draw(rt, "no redirect") == 0
	if rapid.Bool().Draw(rt, "counted") {
		o.opt.Stats = "nowhere"
	}
	if rapid.Bool().Draw(rt, "indexed") && o.opt.Override == NoOverride {
		indexLayers(rt, &o.opt, filepath.Join(filepath.Dir(o.w.mnt), "index"))
	}
	root := rapid.SampledFrom([]uint32{0o755, 0o777, 0o1777, 0o2777}).Draw(rt, "mode of the root")
	require.NoError(rt, unix.Chmod(o.w.upper, root))
	s, err := Mount(o.w.mnt, o.opt)
	require.NoError(rt, err)
	o.w.server = s
	base := filepath.Dir(o.w.mnt)
	require.NoError(rt, errors.Join(unix.Chmod(base, 0o755), unix.Chmod(filepath.Dir(base), 0o755)))
	o.plain = filepath.Join(base, "plain")
	copyTree(rt, o.w.mnt, o.plain)
	require.NoError(rt, unix.Chmod(o.plain, root))
	o.tellRoots(rt)
	return o
}

// tellRoots makes the clients close all and begin with this view.
func (o *oracle) tellRoots(rt require.TestingT) {
	for _, c := range o.clients {
		c.send(rt, order{View: o.w.mnt, Plain: o.plain, NoRedirect: o.opt.NoRedirect})
	}
	for _, c := range o.clients {
		c.answer(rt)
	}
}

func (o *oracle) close() {
	if o.w.server != nil {
		o.tellRoots(o.t)
		o.unmount(o.t)
	}
	require.NoError(o.t, os.RemoveAll(filepath.Dir(o.w.mnt)))
}

// unmount says who holds the view if it can not be unmounted, and takes it away all
// the same: what lies below is about to be removed, and not through it.
func (o *oracle) unmount(t require.TestingT) {
	if err := o.w.server.Unmount(); err != nil {
		// Printed at once: what follows may fail, too, and is all that is told then.
		fmt.Fprintf(os.Stderr, "%v: it is held by %s\n", err, strings.Join(testenv.Holders(o.w.mnt), "\n"))
		require.NoError(t, o.w.server.Detach())
		o.w.server = nil
		require.NoError(t, err)
	}
}

// regions are the top directories that a path is drawn in: one that both clients
// share, and one of each client alone, which they work in at the same time. No file
// has names in two of them, or the order of the clients would show.
var regions = [3]string{"0", "1", "shared"}

const sharedRegion = 2

// longName is as long as a name can be.
var longName = strings.Repeat("n", 255)

var names = []string{"a", "b", "c", "d", "e", "a", "b", longName}

// drawPath draws a path of one to three names. Many of them exist.
func drawPath(rt *rapid.T, label string) string {
	parts := rapid.SliceOfN(rapid.SampledFrom(names), 1, 3).Draw(rt, label)
	return filepath.Join(parts...)
}

// fillLayers makes random lower layers: files, directories, links, whiteouts of
// both dialects and opaque directories.
func fillLayers(rt *rapid.T, w *world) { fillRegion(rt, w, "") }

// fillRegion is fillLayers below one directory.
func fillRegion(rt *rapid.T, w *world, region string) {
	for layer := len(w.lowers) - 1; layer >= 0; layer-- {
		root := filepath.Join(w.lowers[layer], region)
		require.NoError(rt, os.MkdirAll(root, 0o755))
		for i := range rapid.IntRange(0, 12).Draw(rt, "files") {
			p := filepath.Join(root, drawPath(rt, "lower path"))
			if os.MkdirAll(filepath.Dir(p), 0o755) != nil {
				continue // a file is in the way
			}
			dir, name := filepath.Split(p)
			switch rapid.IntRange(0, 10).Draw(rt, "kind") {
			case 6:
				linkSomething(root, p)
			case 0:
				_ = os.Mkdir(p, 0o750)
			case 1:
				_ = os.Symlink("target", p)
			case 2:
				_ = unix.Mknod(p, unix.S_IFCHR, 0) // a whiteout, overlay
			case 3:
				_ = os.WriteFile(filepath.Join(dir, whiteout.Prefix+name), nil, 0o600)
			case 4:
				if os.Mkdir(p, 0o755) == nil {
					_ = unix.Setxattr(p, "user.overlay.opaque", []byte("y"), 0)
				}
			case 5:
				if os.Mkdir(p, 0o755) == nil {
					_ = os.WriteFile(filepath.Join(p, whiteout.OpaqueName), nil, 0o600)
				}
			default:
				content := strings.Repeat(fmt.Sprintf("layer %d file %d\n", layer, i), rapid.OneOf(rapid.IntRange(0, 400), rapid.IntRange(1000, 2500)).Draw(rt, "lines")) // the longer ones become metacopies
				if _, err := os.Lstat(p); err != nil {
					require.NoError(rt, os.WriteFile(p, []byte(content), 0o640))
				}
			}
		}
	}
}

// linkSomething makes p a hard link to the first regular file of the layer.
func linkSomething(root, p string) {
	_ = filepath.WalkDir(root, func(have string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !whiteout.Reserved(d.Name()) && os.Link(have, p) == nil {
			return fs.SkipAll
		}
		return err
	})
}

// indexLayers makes opt read its layers from an index.
func indexLayers(t require.TestingT, opt *Options, file string) {
	var layers []index.Layer
	for i := range opt.Lowers {
		opt.Lowers[i].ID = fmt.Sprint("layer ", i)
		layers = append(layers, index.Layer{Path: opt.Lowers[i].Path, ID: opt.Lowers[i].ID})
	}
	opt.Index = file
	require.NoError(t, index.Build(file, layers))
}

func errnoOf(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func listDir(p string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return "not a directory", err
	}
	list, err := os.ReadDir(p)
	var lines []string
	for _, e := range list {
		lines = append(lines, e.Name()+" "+e.Type().String())
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n"), err
}

func describe(p string) (string, error) {
	var st unix.Stat_t
	err := unix.Lstat(p, &st)
	return describeStat(&st), err
}

// describeStat is what must be the same on both sides. Times differ by when
// each side was called, except those that were set.
func describeStat(st *unix.Stat_t) string {
	s := fmt.Sprintf("mode %o uid %d gid %d rdev %d", st.Mode, st.Uid, st.Gid, st.Rdev)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		s += fmt.Sprintf(" size %d nlink %d", st.Size, st.Nlink)
	}
	if st.Mtim.Sec == 1e9 {
		s += fmt.Sprintf(" mtime %d.%d", st.Mtim.Sec, st.Mtim.Nsec)
	}
	return s
}

// identity checks that a living file keeps its inode number in the view, also over
// copy-up, rename and remount. Which file it is, the plain directory tells.
func (o *oracle) identity(rt *rapid.T) {
	p := filepath.Join(regions[sharedRegion], drawPath(rt, "path"))
	var plain unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, filepath.Join(o.plain, p), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &plain) != nil {
		return
	}
	var st unix.Stat_t
	require.NoError(rt, unix.Lstat(filepath.Join(o.w.mnt, p), &st), p)
	file := fmt.Sprint(plain.Ino, plain.Btime)
	if before, ok := o.inos[file]; ok {
		require.Equal(rt, before, st.Ino, "the inode number of %s changed", p)
	}
	o.inos[file] = st.Ino
	list, err := os.ReadDir(filepath.Join(o.w.mnt, filepath.Dir(p)))
	require.NoError(rt, err)
	for _, e := range list {
		if e.Name() == filepath.Base(p) {
			require.Equal(rt, st.Ino, direntIno(rt, filepath.Join(o.w.mnt, filepath.Dir(p)), e.Name()), "%s: readdir and stat differ", p)
		}
	}
}

// direntIno is the inode number that a directory tells of a name.
func direntIno(rt require.TestingT, dir, name string) uint64 {
	fd, err := at.OpenRoot(dir)
	require.NoError(rt, err)
	defer unix.Close(fd)
	list, err := at.ReadDir(fd)
	require.NoError(rt, err)
	for _, e := range list {
		if e.Name == name {
			return e.Ino
		}
	}
	return 0
}

// remount unmounts and mounts the view again: what was done must be found in
// the upper. Open files are closed first.
func (o *oracle) remount(rt *rapid.T) {
	o.history = append(o.history, "remount")
	o.tellRoots(rt)
	o.unmount(rt)
	s, err := Mount(o.w.mnt, o.opt)
	require.NoError(rt, err)
	o.w.server = s
}

// dropCaches makes the kernel forget what it knows of the view.
func (o *oracle) dropCaches(rt *rapid.T) {
	if !testenv.IsRoot() {
		return
	}
	require.NoError(rt, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0o200))
}

func (o *oracle) compareTrees(rt *rapid.T) {
	got, want := treeOf(rt, o.w.mnt), treeOf(rt, o.plain)
	if !equalTrees(want, got) {
		rt.Log(strings.Join(o.history, "\n"))
	}
	require.Equal(rt, want, got, "the view and the plain directory differ")
	require.Equal(rt, o.before, hashTrees(rt, o.w.lowers), "a lower layer was changed")

	// The upper as the top layer of another view shows the same.
	o.tellRoots(rt)
	o.unmount(rt)
	again := Options{Lowers: append([]Lower{{Path: o.w.upper}}, o.opt.Lowers...), Override: o.opt.Override}
	if o.opt.Index != "" {
		indexLayers(rt, &again, o.opt.Index+".again")
	}
	s, err := Mount(o.w.mnt, again)
	require.NoError(rt, err)
	o.w.server = s
	require.Equal(rt, want, treeOf(rt, o.w.mnt), "the upper is read differently as a layer")
}

// treeOf describes every file below root, data and attributes included.
func treeOf(rt require.TestingT, root string) map[string]string {
	tree := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		line, err := describe(p)
		if err != nil {
			return err
		}
		switch d.Type() {
		case 0:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" data %x", sha256.Sum256(data))
		case fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		for _, attr := range shownAttrs {
			buf := make([]byte, 256)
			if n, err := unix.Lgetxattr(p, attr, buf); err == nil {
				line += fmt.Sprintf(" %s=%x", attr, buf[:n])
			}
		}
		rel, err := filepath.Rel(root, p)
		tree[rel] = line
		return err
	})
	require.NoError(rt, err)
	return tree
}

// hashTrees describes directories as they lie on the disk.
func hashTrees(rt require.TestingT, roots []string) map[string]string {
	all := map[string]string{}
	for _, root := range roots {
		for p, line := range treeOf(rt, root) {
			all[filepath.Join(root, p)] = line
		}
	}
	return all
}

// copyTree makes dst a copy of src, attributes included.
func copyTree(rt require.TestingT, src, dst string) {
	require.NoError(rt, os.Mkdir(dst, 0o755))
	linked := map[uint64]string{}
	err := filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == src {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		to := filepath.Join(dst, rel)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		if first, ok := linked[st.Ino]; ok {
			return os.Link(first, to)
		}
		if st.Nlink > 1 && !d.IsDir() {
			linked[st.Ino] = to
		}
		switch d.Type() {
		case fs.ModeDir:
			if err := os.Mkdir(to, 0o700); err != nil {
				return err
			}
		case fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return errors.Join(os.Symlink(target, to), os.Lchown(to, int(st.Uid), int(st.Gid)))
		case fs.ModeNamedPipe, fs.ModeSocket, fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
			if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
				return err
			}
		default:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			if err := os.WriteFile(to, data, 0o600); err != nil {
				return err
			}
		}
		return errors.Join(os.Lchown(to, int(st.Uid), int(st.Gid)), copyAttrs(p, to), unix.Chmod(to, st.Mode&0o7777))
	})
	require.NoError(rt, err)
}

func copyAttrs(from, to string) error {
	for _, attr := range shownAttrs {
		buf := make([]byte, 256)
		if n, err := unix.Lgetxattr(from, attr, buf); err == nil {
			if err := unix.Lsetxattr(to, attr, buf[:n], 0); err != nil {
				return err
			}
		}
	}
	return nil
}
