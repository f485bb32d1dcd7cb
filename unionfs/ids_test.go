package unionfs

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/copyup"
	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/testenv"
)

// TestRangesRoundTrip: what has an id on one side gets it back from the other.
func TestRangesRoundTrip(t *testing.T) {
	ranges := []IDRange{{0, 100000, 1000}, {1000, 1000, 1}, {2000, 500, 10}, {1<<32 - 3, 1 << 31, 3}}
	require.NoError(t, checkIDs("uidmapping", ranges))
	for id, want := range map[uint32]uint32{0: 100000, 999: 100999, 1000: 1000, 2009: 509, 1<<32 - 1: 1<<31 + 2} {
		got, ok := shownID(ranges, id)
		require.True(t, ok, id)
		require.Equal(t, want, got)
	}
	for _, id := range []uint32{1001, 1999, 2010, 1<<32 - 4} {
		_, ok := shownID(ranges, id)
		require.False(t, ok, id)
	}
	for range 10000 {
		id := rand.Uint32N(3000)
		if to, ok := shownID(ranges, id); ok {
			back, ok := diskID(ranges, to)
			require.True(t, ok)
			require.Equal(t, id, back)
		}
	}
	same, ok := shownID(nil, 77)
	require.True(t, ok)
	require.Equal(t, uint32(77), same)
}

func TestRangesThatCanNotBe(t *testing.T) {
	for _, bad := range [][]IDRange{
		{{0, 0, 0}}, {{1, 0, 1<<32 - 1}}, {{0, 5, 1<<32 - 1}}, {{0, 0, 10}, {9, 100, 1}}, {{0, 0, 10}, {100, 5, 10}},
	} {
		if bad[0].Length == 1<<32-1 {
			bad[0].OnDisk *= 2
			bad[0].Shown *= 2
		}
		require.ErrorContains(t, checkIDs("gidmapping", bad), "gidmapping", "%v", bad)
	}
}

func TestOverrideFormat(t *testing.T) {
	reg, dir := uint32(unix.S_IFREG), uint32(unix.S_IFDIR)
	for _, c := range []struct {
		value          string
		real, uid, gid uint32
		mode           uint32
		rdev           uint64
		again          string // what we would write
	}{
		{"0:0:0755", reg, 0, 0, reg | 0o755, 0, "0:0:0755"},
		{"1:2:4755", reg, 1, 2, reg | 0o4755, 0, "1:2:04755"},
		{"1:2:0700:file", reg, 1, 2, reg | 0o700, 0, "1:2:0700"},
		{"1:2:1777:dir", dir, 1, 2, dir | 0o1777, 0, "1:2:01777"},
		{"0:0:104755", reg, 0, 0, reg | 0o4755, 0, "0:0:04755"}, // fuse-overlayfs 1.10
		{"0:0:0600:char-1-3", reg, 0, 0, unix.S_IFCHR | 0o600, unix.Mkdev(1, 3), "0:0:0600:char-1-3"},
		{"0:6:0660:block-8-300", reg, 0, 6, unix.S_IFBLK | 0o660, unix.Mkdev(8, 300), "0:6:0660:block-8-300"},
		{"0:0:0644:pipe", reg, 0, 0, unix.S_IFIFO | 0o644, 0, "0:0:0644:pipe"},
		{"0:0:0644:socket", reg, 0, 0, unix.S_IFSOCK | 0o644, 0, "0:0:0644:socket"},
		{"7:8:0600:symlink", reg, 7, 8, unix.S_IFLNK | 0o777, 0, "7:8:0777:symlink"},
		{"7:8:0700:symlink", dir, 7, 8, dir | 0o700, 0, "7:8:0700"},
		{"0:0:0644:char-1-3", dir, 0, 0, dir | 0o644, 0, "0:0:0644"}, // a directory stands for nothing else
	} {
		st := unix.Stat_t{Mode: c.real | 0o111, Uid: 9, Gid: 9}
		require.NoError(t, parseOverride(c.value, &st), c.value)
		require.Equal(t, unix.Stat_t{Mode: c.mode, Uid: c.uid, Gid: c.gid, Rdev: c.rdev}, st, c.value)
		require.Equal(t, c.again, formatOverride(&st, c.real))
	}
	for _, bad := range []string{"", "0", "0:0", "a:0:0", "0:-1:0", "0:0:9", "0:0:0:char", "0:0:0:block-1", "0:0:0:char-x-1", "4294967296:0:0"} {
		st := unix.Stat_t{Mode: reg}
		require.ErrorContains(t, parseOverride(bad, &st), "malformed", bad)
	}
}

// owner is "UID:GID MODE" of a file as a program sees it.
func owner(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(path, &st))
	return fmt.Sprintf("%d:%d %04o", st.Uid, st.Gid, st.Mode&0o7777)
}

func idWorld(t *testing.T) *world {
	testenv.Root(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	low := w.lowers[0]
	for name, id := range map[string]int{"root": 0, "five": 5, "far": 5000} {
		must(os.WriteFile(filepath.Join(low, name), []byte(name), 0o644))
		must(os.Chown(filepath.Join(low, name), id, id))
	}
	must(os.Symlink("five", filepath.Join(low, "link")))
	must(os.Lchown(filepath.Join(low, "link"), 5, 5))
	return w
}

// TestMappedIDs: the ids of the disk are shown, and asked ids written, through
// the ranges; a copy keeps the owner that the layer has.
func TestMappedIDs(t *testing.T) {
	w := idWorld(t)
	opt := w.options()
	opt.UIDs, opt.GIDs = []IDRange{{0, 100000, 100}}, []IDRange{{0, 200000, 100}}
	w.mount(t, opt)
	in := func(name string) string { return filepath.Join(w.mnt, name) }
	up := func(name string) string { return filepath.Join(w.upper, name) }
	require.Equal(t, "100000:200000 0644", owner(t, in("root")))
	require.Equal(t, "100005:200005 0644", owner(t, in("five")))
	require.Equal(t, "100005:200005 0777", owner(t, in("link")))
	require.Equal(t, "65534:65534 0644", owner(t, in("far")))

	must(os.Chmod(in("five"), 0o600))
	require.Equal(t, "5:5 0600", owner(t, up("five")))
	require.Equal(t, "100005:200005 0600", owner(t, in("five")))
	must(os.Chown(in("five"), 100007, -1))
	require.Equal(t, "7:5 0600", owner(t, up("five")))
	require.ErrorIs(t, os.Chown(in("five"), 7, -1), unix.EOVERFLOW)
	must(os.Chmod(in("far"), 0o600))
	require.Equal(t, "5000:5000 0600", owner(t, up("far")))

	must(os.WriteFile(in("ours"), nil, 0o644)) // made by root, who is in no range
	require.Equal(t, "65534:65534 0644", owner(t, up("ours")))
	must(os.Mkdir(in("setgid"), 0o755))
	must(os.Chown(in("setgid"), 100001, 200002))
	must(unix.Chmod(in("setgid"), 0o2755))
	must(os.Mkdir(in("setgid/sub"), 0o755))
	require.Equal(t, "65534:2 2755", owner(t, up("setgid/sub")))
	require.Equal(t, "65534:200002 2755", owner(t, in("setgid/sub")))
}

// TestMappedAttributes: the ids in access lists, and the root of capabilities, are mapped as
// owners are; and capabilities of who is root on the disk are for every namespace.
func TestMappedAttributes(t *testing.T) {
	w := idWorld(t)
	opt := w.options()
	opt.UIDs, opt.GIDs = []IDRange{{0, 100000, 100}}, []IDRange{{0, 200000, 100}}
	in, up := filepath.Join(w.mnt, "five"), filepath.Join(w.upper, "five")
	list := func(user, group uint32) []byte {
		acl := []byte{2, 0, 0, 0}
		for _, e := range [][3]uint32{{1, 6, ^uint32(0)}, {2, 4, user}, {4, 4, ^uint32(0)}, {8, 6, group}, {16, 6, ^uint32(0)}, {32, 0, ^uint32(0)}} {
			acl = binary.LittleEndian.AppendUint16(acl, uint16(e[0]))
			acl = binary.LittleEndian.AppendUint16(acl, uint16(e[1]))
			acl = binary.LittleEndian.AppendUint32(acl, e[2])
		}
		return acl
	}
	attr := func(path, name string) []byte {
		value, err := at.Getxattr(at.CWD, path, name)
		must(err)
		return value
	}
	must(at.Setxattr(at.CWD, filepath.Join(w.lowers[0], "root"), aclAccess, list(5000, 8), 0))
	w.mount(t, opt)
	must(at.Setxattr(at.CWD, in, aclAccess, list(100007, 200008), 0))
	require.Equal(t, list(7, 8), attr(up, aclAccess))
	require.Equal(t, list(100007, 200008), attr(in, aclAccess))
	require.Equal(t, list(65534, 200008), attr(filepath.Join(w.mnt, "root"), aclAccess))
	require.ErrorIs(t, at.Setxattr(at.CWD, in, aclAccess, list(7, 200008), 0), unix.EOVERFLOW)

	caps := func(revision byte, root ...uint32) []byte {
		value := make([]byte, 20, 24)
		value[3], value[5] = revision, 0x20 // CAP_NET_RAW
		for _, id := range root {
			value = binary.LittleEndian.AppendUint32(value, id)
		}
		return value
	}
	must(at.Setxattr(at.CWD, in, copyup.CapsAttr, caps(3, 100000), 0))
	require.Equal(t, caps(2), attr(up, copyup.CapsAttr))
	require.Equal(t, caps(2), attr(in, copyup.CapsAttr))
	must(at.Setxattr(at.CWD, in, copyup.CapsAttr, caps(3, 100009), 0))
	require.Equal(t, caps(3, 9), attr(up, copyup.CapsAttr))
	require.Equal(t, caps(3, 100009), attr(in, copyup.CapsAttr))
}

// TestSquashedIDs: every file is shown as one owner's; the disk has what was asked.
func TestSquashedIDs(t *testing.T) {
	w := idWorld(t)
	opt := w.options()
	uid, gid := uint32(1234), uint32(0)
	opt.SquashUID, opt.SquashGID = &uid, &gid
	w.mount(t, opt)
	for _, name := range []string{"root", "five", "far"} {
		require.Equal(t, "1234:0 0644", owner(t, filepath.Join(w.mnt, name)))
	}
	must(os.Chmod(filepath.Join(w.mnt, "five"), 0o640))
	require.Equal(t, "5:5 0640", owner(t, filepath.Join(w.upper, "five")))
	must(os.Chown(filepath.Join(w.mnt, "root"), 3, 4))
	require.Equal(t, "3:4 0644", owner(t, filepath.Join(w.upper, "root")))
	require.Equal(t, "1234:0 0644", owner(t, filepath.Join(w.mnt, "root")))
}

// TestOverride: owners, modes and devices are read from the attribute and written
// to it, and they are the same after a remount.
func TestOverride(t *testing.T) {
	for o, name := range map[Override]string{OverrideSecurity: "security", OverrideUser: "user"} {
		t.Run(name, func(t *testing.T) { testOverride(t, o) })
	}
}

func testOverride(t *testing.T, o Override) {
	w := idWorld(t)
	attr := overrideAttrs[o][0]
	keep := func(name, value string) {
		require.NoError(t, at.Setxattr(at.CWD, filepath.Join(w.lowers[0], name), attr, []byte(value), 0))
	}
	keep("five", "7:8:4711")
	must(os.Mkdir(filepath.Join(w.lowers[0], "dir"), 0o700))
	keep("dir", "9:9:02775")
	must(os.WriteFile(filepath.Join(w.lowers[0], "null"), nil, 0o600))
	keep("null", "0:6:0620:char-1-3")
	opt := w.options()
	opt.Override = o
	w.mount(t, opt)
	in := func(name string) string { return filepath.Join(w.mnt, name) }
	up := func(name string) string { return filepath.Join(w.upper, name) }

	require.Equal(t, "7:8 4711", owner(t, in("five")))
	require.Equal(t, "5000:5000 0644", owner(t, in("far")))
	require.Equal(t, "0:6 0620", owner(t, in("null")))
	requireDevice(t, in("null"), unix.S_IFCHR, unix.Mkdev(1, 3))

	// Copy-up keeps what is shown, in the attribute.
	must(unix.Setxattr(in("five"), "user.x", []byte("y"), 0))
	require.Equal(t, "7:8 4711", owner(t, in("five")))
	require.Equal(t, "0:0 0711", owner(t, up("five")), "the file itself gives nobody privileges")
	must(os.Chown(in("null"), 4, 4))
	require.Equal(t, "4:4 0620", owner(t, in("null")))
	requireDevice(t, in("null"), unix.S_IFCHR, unix.Mkdev(1, 3))
	must(os.Chmod(in("far"), 0o400))
	require.Equal(t, "5000:5000 0400", owner(t, in("far")))
	require.Equal(t, "0:0 0600", owner(t, up("far")))

	// chown takes setuid away, chmod gives it.
	must(os.Chown(in("five"), 70, -1))
	require.Equal(t, "70:8 0711", owner(t, in("five")))
	must(unix.Chmod(in("five"), 0o6755))
	require.Equal(t, "70:8 6755", owner(t, in("five")))

	// New files have theirs from the start, and the group of a setgid directory.
	must(os.WriteFile(in("dir/new"), []byte("data"), 0o000))
	require.Equal(t, "0:9 0000", owner(t, in("dir/new")))
	must(os.Mkdir(in("dir/sub"), 0o755))
	require.Equal(t, "0:9 2755", owner(t, in("dir/sub")))
	require.Equal(t, "0:0 0775", owner(t, up("dir")))
	must(unix.Mknod(in("disk"), unix.S_IFBLK|0o640, int(unix.Mkdev(8, 1))))
	requireDevice(t, in("disk"), unix.S_IFBLK, unix.Mkdev(8, 1))
	must(unix.Mkfifo(in("fifo"), 0o600))
	must(os.Chown(in("fifo"), 11, 12))
	require.Equal(t, "11:12 0600", owner(t, in("fifo")))
	must(os.Lchown(in("link"), 13, 14))
	require.Equal(t, "13:14 0777", owner(t, in("link")))

	// Programs do not see the attribute, and can not say with it what is not so.
	_, err := at.Getxattr(at.CWD, in("five"), attr)
	require.ErrorIs(t, err, unix.ENODATA)
	require.Error(t, unix.Setxattr(in("five"), attr, []byte("0:0:4777"), 0))

	before := listing(t, w.mnt)
	w.unmount(t)
	w.mount(t, opt)
	require.Equal(t, before, listing(t, w.mnt), "after a remount")
}

func requireDevice(t *testing.T, path string, kind uint32, rdev uint64) {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(path, &st))
	require.Equal(t, kind, st.Mode&unix.S_IFMT)
	require.Equal(t, rdev, st.Rdev)
}

// listing is owner and type, by stat and by readdir, of everything below dir.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	list := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil {
			fi, err := os.Lstat(path)
			if err != nil {
				return err
			}
			require.Equal(t, fi.Mode().Type(), e.Type(), "readdir and lstat of %s", path)
			list[path] = owner(t, path) + e.Type().String()
		}
		return err
	}))
	return list
}

// TestOverrideMalformed: a value that means nothing is an error of that file, and
// of no other.
func TestOverrideMalformed(t *testing.T) {
	w := idWorld(t)
	require.NoError(t, at.Setxattr(at.CWD, filepath.Join(w.lowers[0], "five"), overrideAttrs[OverrideUser][0], []byte("all mine"), 0))
	opt := w.options()
	opt.Override = OverrideUser
	w.mount(t, opt)
	_, err := os.Lstat(filepath.Join(w.mnt, "five"))
	require.ErrorIs(t, err, unix.EIO)
	list, err := os.ReadDir(w.mnt)
	require.NoError(t, err)
	require.Len(t, list, 4)
	require.Equal(t, "5000:5000 0644", owner(t, filepath.Join(w.mnt, "far")))
}

// TestPosixOverride is TestPosix for views that keep owners and modes in an
// attribute.
func TestPosixOverride(t *testing.T) {
	overrides := map[string]Override{"user": OverrideUser}
	if testenv.IsRoot() {
		overrides["security"] = OverrideSecurity
	}
	for kind, o := range overrides {
		for name, test := range posixtest.All {
			if name == "FcntlFlockLocksFile" {
				continue // see TestLocks
			}
			t.Run(kind+"/"+name, func(t *testing.T) {
				w := newWorld(t, 1)
				mkdir(t, w.lowers[0], "d")
				opt := w.options()
				opt.Override = o
				w.mount(t, opt)
				test(t, filepath.Join(w.mnt, "d"))
			})
		}
	}
}
