package unionfs

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/index"
	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/whiteout"
)

// oracleSteps is how many operations TestOracle does in all.
var oracleSteps = flag.Int("oracle.steps", 12000, "operations of the random test against a plain directory")

// TestOracle does random operations on a view and on a plain directory that
// began with the same files, and compares each answer; then the two trees; then it
// hashes the lower layers, which must be as they were. The modes of I/O but the
// first get a quarter of the operations each.
func TestOracle(t *testing.T) {
	t.Run(Cached.String(), func(t *testing.T) { testOracle(t, Cached, *oracleSteps) })
	for _, mode := range otherModes {
		t.Run(mode.String(), func(t *testing.T) {
			needsMode(t, mode)
			testOracle(t, mode, *oracleSteps/4)
		})
	}
}

func testOracle(t *testing.T, mode Mode, operations int) {
	defer unix.Umask(unix.Umask(0o027))
	setFlag(t, "rapid.checks", 4)
	setFlag(t, "rapid.steps", 400) // at most, in a check
	for steps := 0; steps < operations && !t.Failed(); {
		rapid.Check(t, func(rt *rapid.T) {
			o := newOracle(t, rt, mode)
			defer o.close()
			actions := map[string]func(*rapid.T){
				"": func(*rapid.T) { steps++ },
			}
			for name, act := range o.actions() {
				actions[name] = act
			}
			rt.Repeat(actions)
			o.compareTrees(rt)
		})
	}
}

// setFlag sets a flag of the test binary for this test.
func setFlag(t *testing.T, name string, value int) {
	t.Helper()
	before := flag.Lookup(name).Value.String()
	require.NoError(t, flag.Set(name, fmt.Sprint(value)))
	t.Cleanup(func() { require.NoError(t, flag.Set(name, before)) })
}

// oracle is a view and a plain directory that should be the same.
type oracle struct {
	t      *testing.T
	w      *world
	opt    Options
	plain  string
	before map[string]string // hashes of the lower layers
	open   []pair
	inos   map[string]uint64 // inode numbers of the view, by file of the plain directory
}

// pair is one file open on both sides.
type pair struct{ view, plain *os.File }

func newOracle(t *testing.T, rt *rapid.T, mode Mode) *oracle {
	o := &oracle{t: t, w: newWorld(t, 3), inos: map[string]uint64{}}
	fillLayers(rt, o.w)
	o.before = hashTrees(rt, o.w.lowers)
	o.opt = o.w.options()
	o.opt.Volatile = true
	o.opt.IO = mode
	o.opt.Whiteout = rapid.SampledFrom([]whiteout.Dialect{whiteout.Overlay, whiteout.OCI}).Draw(rt, "dialect")
	o.opt.NoMetacopy = rapid.IntRange(0, 3).Draw(rt, "no metacopy") == 0
	o.opt.NoRedirect = rapid.IntRange(0, 3).Draw(rt, "no redirect") == 0
	if rapid.Bool().Draw(rt, "counted") {
		o.opt.Stats = "nowhere"
	}
	if rapid.Bool().Draw(rt, "indexed") {
		indexLayers(rt, &o.opt, filepath.Join(filepath.Dir(o.w.mnt), "index"))
	}
	s, err := Mount(o.w.mnt, o.opt)
	require.NoError(rt, err)
	o.w.server = s
	o.plain = filepath.Join(filepath.Dir(o.w.mnt), "plain")
	copyTree(rt, o.w.mnt, o.plain)
	return o
}

func (o *oracle) close() {
	for _, p := range o.open {
		p.view.Close()
		p.plain.Close()
	}
	if err := o.w.server.Unmount(); err != nil {
		o.t.Errorf("unmount: %v", err)
	}
	require.NoError(o.t, os.RemoveAll(filepath.Dir(o.w.mnt)))
}

var names = []string{"a", "b", "c", "d", "e"}

// drawPath draws a path of one to three names. Many of them exist.
func drawPath(rt *rapid.T, label string) string {
	parts := rapid.SliceOfN(rapid.SampledFrom(names), 1, 3).Draw(rt, label)
	return filepath.Join(parts...)
}

// fillLayers makes random lower layers: files, directories, links, whiteouts of
// both dialects and opaque directories.
func fillLayers(rt *rapid.T, w *world) {
	for layer := len(w.lowers) - 1; layer >= 0; layer-- {
		root := w.lowers[layer]
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

// both does the same on the view and on the plain directory, and compares what
// came of it. It tells whether it worked.
func (o *oracle) both(rt *rapid.T, what string, act func(root string) (string, error)) bool {
	got, gotErr := act(o.w.mnt)
	if o.opt.NoRedirect && errors.Is(gotErr, unix.EXDEV) {
		return false // a directory that a layer has a part in
	}
	want, wantErr := act(o.plain)
	require.Equal(rt, errnoOf(wantErr), errnoOf(gotErr), "%s: view said %v, plain directory %v", what, gotErr, wantErr)
	require.Equal(rt, want, got, what)
	return wantErr == nil
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

// on returns an action that does act on one random path.
func (o *oracle) on(what string, act func(rt *rapid.T) func(path string) (string, error)) func(*rapid.T) {
	return func(rt *rapid.T) {
		p, do := drawPath(rt, "path"), act(rt)
		o.both(rt, what+" "+p, func(root string) (string, error) { return do(filepath.Join(root, p)) })
	}
}

// do is on for actions that draw nothing but the path.
func (o *oracle) do(what string, act func(path string) error) func(*rapid.T) {
	return o.on(what, func(*rapid.T) func(string) (string, error) {
		return func(p string) (string, error) { return "", act(p) }
	})
}

// onTwo returns an action on two random paths.
func (o *oracle) onTwo(what string, act func(a, b string) error) func(*rapid.T) {
	return func(rt *rapid.T) {
		a, b := drawPath(rt, "from"), drawPath(rt, "to")
		o.both(rt, what+" "+a+" "+b, func(root string) (string, error) {
			return "", act(filepath.Join(root, a), filepath.Join(root, b))
		})
	}
}

func (o *oracle) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"mkdir":   o.do("mkdir", func(p string) error { return unix.Mkdir(p, 0o751) }),
		"unlink":  o.do("unlink", unix.Unlink),
		"rmdir":   o.do("rmdir", unix.Rmdir),
		"symlink": o.do("symlink", func(p string) error { return unix.Symlink("b/c", p) }),
		"fifo":    o.do("mkfifo", func(p string) error { return unix.Mkfifo(p, 0o604) }),
		"chmod": o.on("chmod", func(rt *rapid.T) func(string) (string, error) {
			mode := rapid.SampledFrom([]uint32{0o600, 0o755, 0o4711, 0o2755, 0o444}).Draw(rt, "mode")
			return func(p string) (string, error) { return "", chmodNoFollow(p, mode) }
		}),
		"utimes": o.do("utimes", func(p string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 7, Nsec: 1}, {Sec: 1e9, Nsec: 123456789}}, unix.AT_SYMLINK_NOFOLLOW)
		}),
		"rename":     o.onTwo("rename", unix.Rename),
		"renameSame": o.renameSibling(),
		"noreplace": o.onTwo("rename noreplace", func(a, b string) error {
			return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE)
		}),
		"exchange": o.onTwo("exchange", func(a, b string) error {
			return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
		}),
		"link":     o.onTwo("link", unix.Link),
		"write":    o.on("write", drawWrite(os.O_WRONLY|os.O_CREATE|os.O_TRUNC)),
		"create":   o.on("create", drawWrite(os.O_WRONLY|os.O_CREATE|os.O_EXCL)),
		"patch":    o.on("patch", drawWrite(os.O_WRONLY)),
		"append":   o.on("append", drawWrite(os.O_WRONLY|os.O_APPEND)),
		"truncate": o.on("truncate", drawTruncate),
		"setxattr": o.on("setxattr", func(rt *rapid.T) func(string) (string, error) {
			value := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "value")
			return func(p string) (string, error) {
				return "", onlyFiles(p, func() error { return unix.Lsetxattr(p, "user.test", value, 0) })
			}
		}),
		"getxattr": o.on("getxattr", func(*rapid.T) func(string) (string, error) {
			return func(p string) (value string, err error) {
				err = onlyFiles(p, func() error {
					buf := make([]byte, 64)
					n, err := unix.Lgetxattr(p, "user.test", buf)
					value = string(buf[:max(n, 0)])
					return err
				})
				return value, err
			}
		}),
		"setfacl":  o.on("setfacl", drawACL),
		"read":     o.on("read", func(*rapid.T) func(string) (string, error) { return readNoFollow }),
		"readdir":  o.on("readdir", func(*rapid.T) func(string) (string, error) { return listDir }),
		"lstat":    o.on("lstat", func(*rapid.T) func(string) (string, error) { return describe }),
		"identity": o.identity,
		"readlink": o.on("readlink", func(*rapid.T) func(string) (string, error) { return os.Readlink }),
		"open":     o.openBoth,
		"close":    o.closeBoth,
		"fdwrite":  o.onOpen("write to open file", drawFdWrite),
		"fdread":   o.onOpen("read open file", func(*rapid.T) func(*os.File) (string, error) { return readOpen }),
		"fdstat":   o.onOpen("fstat", func(*rapid.T) func(*os.File) (string, error) { return statOpen }),
		"remount":  o.remount,
		"drop":     func(rt *rapid.T) { o.dropCaches(rt) },
	}
}

// renameSibling renames within one directory, where most renames happen.
func (o *oracle) renameSibling() func(*rapid.T) {
	return func(rt *rapid.T) {
		a := drawPath(rt, "from")
		b := filepath.Join(filepath.Dir(a), rapid.SampledFrom(names).Draw(rt, "to"))
		o.both(rt, "rename "+a+" "+b, func(root string) (string, error) {
			return "", unix.Rename(filepath.Join(root, a), filepath.Join(root, b))
		})
	}
}

func drawWrite(flags int) func(rt *rapid.T) func(string) (string, error) {
	return func(rt *rapid.T) func(string) (string, error) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(rt, "data")
		repeat := rapid.SampledFrom([]int{1, 1, 1, 300}).Draw(rt, "repeat")
		return func(p string) (string, error) {
			f, err := os.OpenFile(p, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o646)
			if err != nil {
				return "", err
			}
			defer f.Close()
			_, err = f.Write([]byte(strings.Repeat(string(data), repeat)))
			return "", err
		}
	}
}

func drawTruncate(rt *rapid.T) func(string) (string, error) {
	size := rapid.SampledFrom([]int64{0, 1, 4095, 4096, 20000}).Draw(rt, "size")
	return func(p string) (string, error) {
		f, err := os.OpenFile(p, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		return "", f.Truncate(size)
	}
}

// chmodNoFollow changes no symbolic link's target: it might be the other's.
func chmodNoFollow(p string, mode uint32) error {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return err
	}
	return unix.Chmod(p, mode)
}

// onlyFiles does act on files and directories: user attributes of other kinds
// are refused with different errors by different file systems.
func onlyFiles(p string, act func() error) error {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil
	}
	return act()
}

// drawACL sets an access list: on a file or directory, or the one that a directory
// hands down.
func drawACL(rt *rapid.T) func(string) (string, error) {
	perm := rapid.Uint16Range(0, 7)
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag uint16
		id  uint32
	}{{1, ^uint32(0)}, {2, 1234}, {4, ^uint32(0)}, {0x10, ^uint32(0)}, {0x20, ^uint32(0)}} {
		acl = binary.LittleEndian.AppendUint16(acl, e.tag)
		acl = binary.LittleEndian.AppendUint16(acl, perm.Draw(rt, "perm"))
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	attr := rapid.SampledFrom([]string{aclDefault, aclDefault, "system.posix_acl_access"}).Draw(rt, "list")
	remove := rapid.IntRange(0, 3).Draw(rt, "remove") == 0
	return func(p string) (string, error) {
		return "", onlyFiles(p, func() error {
			if remove {
				return unix.Lremovexattr(p, attr)
			}
			return unix.Lsetxattr(p, attr, acl, 0)
		})
	}
}

func readNoFollow(p string) (string, error) {
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	return string(data), err
}

func listDir(p string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return "", err
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
	p := drawPath(rt, "path")
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

func (o *oracle) openBoth(rt *rapid.T) {
	if len(o.open) > 6 {
		o.closeBoth(rt)
	}
	p := drawPath(rt, "path")
	flags := rapid.SampledFrom([]int{os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_RDWR | os.O_CREATE}).Draw(rt, "flags")
	var opened pair
	ok := o.both(rt, "open "+p, func(root string) (string, error) {
		f, err := os.OpenFile(filepath.Join(root, p), flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o660)
		if err != nil {
			return "", err
		}
		if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
			return "not a file", errors.Join(err, f.Close())
		}
		if root == o.plain {
			opened.plain = f
		} else {
			opened.view = f
		}
		return "", nil
	})
	if ok && opened.view != nil {
		o.open = append(o.open, opened)
	}
}

func (o *oracle) closeBoth(rt *rapid.T) {
	if len(o.open) == 0 {
		return
	}
	k := rapid.IntRange(0, len(o.open)-1).Draw(rt, "which")
	require.NoError(rt, o.open[k].view.Close())
	require.NoError(rt, o.open[k].plain.Close())
	o.open = append(o.open[:k], o.open[k+1:]...)
}

func (o *oracle) onOpen(what string, act func(rt *rapid.T) func(*os.File) (string, error)) func(*rapid.T) {
	return func(rt *rapid.T) {
		if len(o.open) == 0 {
			return
		}
		k, do := rapid.IntRange(0, len(o.open)-1).Draw(rt, "which"), act(rt)
		got, gotErr := do(o.open[k].view)
		want, wantErr := do(o.open[k].plain)
		require.Equal(rt, errnoOf(wantErr), errnoOf(gotErr), "%s: view said %v, plain %v", what, gotErr, wantErr)
		require.Equal(rt, want, got, what)
	}
}

func drawFdWrite(rt *rapid.T) func(*os.File) (string, error) {
	data := rapid.SliceOfN(rapid.Byte(), 1, 50).Draw(rt, "data")
	off := rapid.SampledFrom([]int64{0, 10, 5000}).Draw(rt, "off")
	return func(f *os.File) (string, error) {
		n, err := unix.Pwrite(int(f.Fd()), data, off)
		return fmt.Sprint(n), err
	}
}

func readOpen(f *os.File) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Pread(int(f.Fd()), buf, 0)
	return string(buf[:max(n, 0)]), err
}

func statOpen(f *os.File) (string, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return describeStat(&st), err
}

// remount unmounts and mounts the view again: what was done must be found in
// the upper. Open files are closed first.
func (o *oracle) remount(rt *rapid.T) {
	if rapid.IntRange(0, 9).Draw(rt, "really") != 0 {
		return
	}
	for len(o.open) > 0 {
		o.closeBoth(rt)
	}
	require.NoError(rt, o.w.server.Unmount())
	s, err := Mount(o.w.mnt, o.opt)
	require.NoError(rt, err)
	o.w.server = s
}

// dropCaches makes the kernel forget what it knows of the view.
func (o *oracle) dropCaches(rt *rapid.T) {
	if !testenv.IsRoot() || rapid.IntRange(0, 9).Draw(rt, "really") != 0 {
		return
	}
	require.NoError(rt, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0o200))
}

func (o *oracle) compareTrees(rt *rapid.T) {
	got, want := treeOf(rt, o.w.mnt), treeOf(rt, o.plain)
	require.Equal(rt, want, got, "the view and the plain directory differ")
	require.Equal(rt, o.before, hashTrees(rt, o.w.lowers), "a lower layer was changed")

	// The upper as the top layer of another view shows the same.
	for len(o.open) > 0 {
		o.closeBoth(rt)
	}
	require.NoError(rt, o.w.server.Unmount())
	again := Options{Lowers: append([]Lower{{Path: o.w.upper}}, o.opt.Lowers...)}
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
		for _, attr := range []string{"user.test", aclDefault, "system.posix_acl_access"} {
			buf := make([]byte, 64)
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
			return os.Symlink(target, to)
		default:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			if err := os.WriteFile(to, data, 0o600); err != nil {
				return err
			}
		}
		return unix.Chmod(to, st.Mode&0o7777)
	})
	require.NoError(rt, err)
}
