package unionfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/whiteout"
)

// stranger is the user, and the group, that is not root's.
const stranger = 1234

// step does one drawn thing: one operation of one client, mostly.
func (o *oracle) step(rt *rapid.T) {
	o.done++
	switch kind := rapid.IntRange(0, 199).Draw(rt, "kind of step"); {
	case kind == 0:
		o.remount(rt)
	case kind == 1:
		o.dropCaches(rt)
	case kind < 10:
		o.identity(rt)
	case kind < 14:
		o.apart(rt)
	case kind < 26:
		o.together(rt)
	default:
		who := rapid.IntRange(0, 1).Draw(rt, "client")
		region := rapid.SampledFrom([]int{sharedRegion, sharedRegion, sharedRegion, who}).Draw(rt, "region")
		one := o.draw(rt, regions[region])
		o.clients[who].send(rt, order{Ops: []task{one}})
		o.same(rt, who, one, o.clients[who].answer(rt)[0])
	}
}

// same compares what came of an operation.
func (o *oracle) same(rt *rapid.T, who int, one task, r outcome) {
	o.note(who, one, r)
	if r.Plain != r.View || r.PlErr != r.ViewErr {
		rt.Fatalf("the last of these is different: plain directory %q %s, view %q %s\n%s",
			r.Plain, r.PlErr, r.View, r.ViewErr, strings.Join(o.history, "\n"))
	}
}

// note keeps what was done, in short, to be told when something is wrong.
func (o *oracle) note(who int, one task, r outcome) {
	line := fmt.Sprintf("client %d: %+v: %s", who, one, r.PlErr)
	line = strings.ReplaceAll(line, longName, "LONG")
	for _, zero := range []string{" To:", " Slot:0", " From:0", " Flags:0", " Mode:0", " UID:0 GID:0", " Off:0", " Size:0", " Attr:", " Data:[]", " As:0"} {
		line = strings.ReplaceAll(strings.ReplaceAll(line, zero+" ", " "), zero+"}", "}")
	}
	o.history = append(o.history, line)
}

// apart has both clients work at once, each in a region of its own.
func (o *oracle) apart(rt *rapid.T) {
	var batch [2][]task
	for who := range batch {
		for range rapid.IntRange(5, 20).Draw(rt, "operations") {
			batch[who] = append(batch[who], o.draw(rt, regions[who]))
		}
	}
	for who, c := range o.clients {
		c.send(rt, order{Ops: batch[who]})
		o.done += len(batch[who])
	}
	for who, c := range o.clients {
		for k, r := range c.answer(rt) {
			o.same(rt, who, batch[who][k], r)
		}
	}
}

// together has both clients do at once what has the same end whoever is first: to
// the same, often lower, file. Who of them is told what depends on that.
func (o *oracle) together(rt *rapid.T) {
	batch := drawTogether(rt, o.opt.NoRedirect)
	for who, c := range o.clients {
		c.send(rt, order{Ops: []task{batch[who]}})
	}
	var view, plain []string
	for who, c := range o.clients {
		r := c.answer(rt)[0]
		o.note(who, batch[who], r)
		view = append(view, r.ViewErr+" "+r.View)
		plain = append(plain, r.PlErr+" "+r.Plain)
	}
	o.done++
	slices.Sort(view)
	slices.Sort(plain)
	require.Equal(rt, plain, view, "together, the last two of: %s", strings.Join(o.history, "\n"))
}

func drawTogether(rt *rapid.T, noRedirect bool) (batch [2]task) {
	shared := regions[sharedRegion]
	path := filepath.Join(shared, drawPath(rt, "path"))
	to := filepath.Join(shared, drawPath(rt, "to"))
	one := rapid.SampledFrom([]task{
		{Do: "mkdir", Mode: 0o755}, {Do: "unlink"}, {Do: "rmdir"}, {Do: "symlink"}, {Do: "link"}, {Do: "chmod", Mode: 0o640},
		{Do: "chown", UID: stranger, GID: stranger}, {Do: "truncate", Size: 4095}, {Do: "rename"}, {Do: "rename", Flags: unix.RENAME_EXCHANGE},
		{Do: "setxattr", Attr: "user."}, {Do: "setxattr", Attr: "user."}, {Do: "patch"},
		{Do: "write", Flags: unix.O_WRONLY | unix.O_APPEND}, {Do: "write", Flags: unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL, Mode: 0o640},
	}).Draw(rt, "both do")
	if one.Do == "rename" && noRedirect || !testenv.IsRoot() && one.Do == "chown" {
		one = task{Do: "readdir"}
	}
	one.Path, one.To, one.Data = path, to, []byte("the same of both\n")
	for who := range batch {
		batch[who] = one
		switch one.Do {
		case "setxattr":
			batch[who].Attr += fmt.Sprint(who)
		case "patch": // each its own bytes
			batch[who].Off = int64(who * 50)
		}
	}
	return batch
}

// writeFlags are the ways to open for writing by name.
var writeFlags = []int{
	unix.O_WRONLY, unix.O_WRONLY | unix.O_APPEND, unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC, unix.O_WRONLY | unix.O_CREAT,
	unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL, unix.O_RDWR | unix.O_SYNC,
}

// draws say what each operation needs beside its paths.
var draws = map[string]func(rt *rapid.T, o *task){
	"mkdir": drawMode, "unlink": nil, "rmdir": nil, "symlink": nil, "mknod": drawDevice, "chmod": drawMode, "chown": drawOwner,
	"utimes": nil, "rename": drawRename, "link": nil, "truncate": drawSize, "setxattr": drawAttr, "removexattr": drawAttr,
	"getxattr": drawAttr, "listxattr": nil, "read": nil, "readdir": nil, "churn": nil, "lstat": nil, "readlink": nil, "access": drawAccess,
	"tmpfile": drawTmpfile, "close": drawSlot, "copy": drawCopy, "fdstat": drawSlot, "fsync": drawSlot, "fdatasync": drawSlot,
	"holes": drawSlot, "setfacl": drawACL,
	"write": func(rt *rapid.T, o *task) {
		o.Flags = rapid.SampledFrom(writeFlags).Draw(rt, "flags")
		o.Mode = 0o646
		drawData(rt, o)
	},
	"open": func(rt *rapid.T, o *task) {
		drawSlot(rt, o)
		o.Flags = rapid.SampledFrom([]int{unix.O_RDONLY, unix.O_RDWR, unix.O_RDWR, unix.O_RDWR | unix.O_APPEND, unix.O_RDWR | unix.O_CREAT,
			unix.O_RDWR | unix.O_TRUNC, unix.O_WRONLY, unix.O_RDWR | unix.O_DSYNC, unix.O_RDWR | unix.O_TMPFILE}).Draw(rt, "flags")
		o.Mode = 0o660
	},
	"fdwrite": onSlot(drawOff, drawData), "fdappend": onSlot(drawData), "fdread": onSlot(drawOff), "fdtrunc": onSlot(drawSize),
	"fdchmod": onSlot(drawMode), "fdchown": onSlot(drawOwner), "fdsetattr": onSlot(drawAttr),
	"mapwrite": onSlot(drawOff, drawData),
	"fallocate": onSlot(drawOff, func(rt *rapid.T, o *task) {
		o.Mode = rapid.SampledFrom([]uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE,
			unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE}).Draw(rt, "mode")
		o.Size = rapid.SampledFrom([]int64{1, 4096, 9000}).Draw(rt, "size")
	}),
	"mapread": onSlot(func(rt *rapid.T, o *task) {
		o.Flags = rapid.SampledFrom([]int{unix.MAP_SHARED, unix.MAP_PRIVATE}).Draw(rt, "how")
	}),
	"direct": onSlot(drawOff, func(rt *rapid.T, o *task) {
		if rapid.Bool().Draw(rt, "write") {
			drawData(rt, o)
		}
	}),
	"flock": onSlot(func(rt *rapid.T, o *task) {
		o.Flags = rapid.SampledFrom([]int{unix.LOCK_SH, unix.LOCK_EX, unix.LOCK_UN}).Draw(rt, "lock")
	}),
	"lock": onSlot(drawOff, func(rt *rapid.T, o *task) {
		o.Flags = rapid.SampledFrom([]int{unix.F_RDLCK, unix.F_WRLCK, unix.F_UNLCK}).Draw(rt, "lock")
	}),
}

// drawn are the operations as often as they are drawn.
var drawn = func() []string {
	return append(slices.Sorted(maps.Keys(draws)),
		"rename", "rename", "open", "open", "write", "write", "mkdir", "unlink", "link", "lstat")
}()

// draw draws one operation in one region.
func (o *oracle) draw(rt *rapid.T, region string) task {
	one := task{Do: rapid.SampledFrom(drawn).Draw(rt, "operation")}
	one.Path = filepath.Join(region, drawPath(rt, "path"))
	switch one.Do {
	case "rename", "link", "tmpfile":
		one.To = filepath.Join(region, drawPath(rt, "to"))
		if rapid.IntRange(0, 2).Draw(rt, "beside") == 0 { // where most renames happen
			one.To = filepath.Join(filepath.Dir(one.Path), rapid.SampledFrom(names).Draw(rt, "name"))
		}
	}
	if draw := draws[one.Do]; draw != nil {
		draw(rt, &one)
	}
	if testenv.IsRoot() && rapid.IntRange(0, 3).Draw(rt, "as") == 0 {
		one.As = stranger
	}
	if o.opt.Override != NoOverride && strings.HasPrefix(one.Attr, "system.") {
		one = task{Do: "lstat", Path: one.Path} // there are no access lists
	}
	if one.UID == -1 && one.GID == -1 {
		one.UID = 0 // see TestStrangersLeaveSetuid
	}
	if o.caps { // see docs/posix.md
		one.Mode &^= 0o6000
	} else if one.Attr == "security.capability" {
		one.Attr = "user.1"
	}
	return one
}

func onSlot(more ...func(rt *rapid.T, o *task)) func(rt *rapid.T, o *task) {
	return func(rt *rapid.T, o *task) {
		drawSlot(rt, o)
		for _, draw := range more {
			draw(rt, o)
		}
	}
}

func drawSlot(rt *rapid.T, o *task) { o.Slot = rapid.IntRange(0, slots-1).Draw(rt, "slot") }

func drawCopy(rt *rapid.T, o *task) {
	drawSlot(rt, o)
	o.From = rapid.IntRange(0, slots-1).Draw(rt, "from")
	o.Off = rapid.SampledFrom([]int64{0, 100, 5000}).Draw(rt, "off")
	o.Size = rapid.SampledFrom([]int64{0, 100, 8000}).Draw(rt, "to")
}

func drawMode(rt *rapid.T, o *task) {
	o.Mode = rapid.SampledFrom([]uint32{0o600, 0o755, 0o777, 0o4711, 0o6777, 0o2755, 0o444, 0o1777, 0o3777}).Draw(rt, "mode")
}

func drawOwner(rt *rapid.T, o *task) {
	o.UID = rapid.SampledFrom([]int{-1, 0, stranger}).Draw(rt, "uid")
	o.GID = rapid.SampledFrom([]int{-1, 0, stranger, 99}).Draw(rt, "gid")
}

func drawOff(rt *rapid.T, o *task) {
	o.Off = rapid.SampledFrom([]int64{0, 10, 4096, 5000}).Draw(rt, "off")
}

func drawSize(rt *rapid.T, o *task) {
	o.Size = rapid.SampledFrom([]int64{0, 1, 4095, 4096, 20000}).Draw(rt, "size")
}

func drawData(rt *rapid.T, o *task) {
	data := fmt.Appendf(nil, "data %d\n", rapid.Uint16().Draw(rt, "data"))
	o.Data = data
	if rapid.IntRange(0, 3).Draw(rt, "much") == 0 {
		o.Data = []byte(strings.Repeat(string(data), 600))
	}
}

func drawRename(rt *rapid.T, o *task) {
	o.Flags = rapid.SampledFrom([]int{0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}).Draw(rt, "flags")
}

func drawAccess(rt *rapid.T, o *task) {
	o.Mode = rapid.SampledFrom([]uint32{unix.R_OK, unix.W_OK, unix.X_OK}).Draw(rt, "for")
}

func drawTmpfile(rt *rapid.T, o *task) {
	o.Path = filepath.Dir(o.Path)
	o.Mode = 0o640
	drawData(rt, o)
	if rapid.IntRange(0, 3).Draw(rt, "nameless") == 0 {
		o.To = ""
	}
}

func drawDevice(rt *rapid.T, o *task) {
	kinds := []uint32{unix.S_IFIFO | 0o604, unix.S_IFSOCK | 0o644, unix.S_IFREG | 0o640}
	if testenv.IsRoot() {
		kinds = append(kinds, unix.S_IFCHR|0o666, unix.S_IFBLK|0o600)
	}
	o.Mode = rapid.SampledFrom(kinds).Draw(rt, "kind")
	o.Size = int64(unix.Mkdev(1, 3)) // null as a character device
}

// capability is a value of security.capability: CAP_NET_RAW, permitted and effective.
var capability = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

func drawAttr(rt *rapid.T, o *task) {
	o.Attr = rapid.SampledFrom([]string{"user.test", "user.0", "security.capability"}).Draw(rt, "attribute")
	o.Data = rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "value")
	if o.Do == "setxattr" {
		o.Flags = rapid.SampledFrom([]int{0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE}).Draw(rt, "flags")
	}
	if o.Attr == "security.capability" {
		if !testenv.IsRoot() {
			o.Attr = "user.1"
		}
		o.Data = capability
	}
}

// drawACL sets or removes an access list: of a file or directory, or the one that a
// directory hands down.
func drawACL(rt *rapid.T, o *task) {
	perm := rapid.Uint16Range(0, 7)
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag uint16
		id  uint32
	}{{1, ^uint32(0)}, {2, stranger}, {4, ^uint32(0)}, {0x10, ^uint32(0)}, {0x20, ^uint32(0)}} {
		acl = binary.LittleEndian.AppendUint16(acl, e.tag)
		acl = binary.LittleEndian.AppendUint16(acl, perm.Draw(rt, "perm"))
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	o.Do, o.Data = "setxattr", acl
	if rapid.IntRange(0, 3).Draw(rt, "remove") == 0 {
		o.Do = "removexattr"
	}
	o.Attr = rapid.SampledFrom([]string{aclDefault, aclDefault, "system.posix_acl_access"}).Draw(rt, "list")
}

// dressLayers gives some files of the layers what most do not have: another owner, a
// mode with special bits, attributes, a hole.
func dressLayers(rt *rapid.T, w *world, caps bool) {
	special := uint32(0o6777)
	if caps {
		special = 0o777
	}
	for _, root := range w.lowers {
		require.NoError(rt, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || whiteout.Reserved(d.Name()) || p == root {
				return err
			}
			kind := d.Type()
			switch how := rapid.IntRange(0, 11).Draw(rt, "dress"); {
			case how == 0 && testenv.IsRoot():
				return os.Lchown(p, stranger, stranger)
			case how == 1 && (kind == 0 || kind.IsDir()):
				return unix.Chmod(p, rapid.SampledFrom([]uint32{0o777, 0o1777, 0o400, special}).Draw(rt, "mode"))
			case how == 2 && (kind == 0 || kind.IsDir()):
				return unix.Setxattr(p, "user.test", []byte("of the layer"), 0)
			case how == 3 && kind == 0 && caps:
				return unix.Setxattr(p, "security.capability", capability, 0)
			case how == 4 && kind == 0:
				return unix.Truncate(p, 30000)
			}
			return nil
		}))
	}
}

// standInLayers has some links and FIFOs of the layers be files that stand for them.
func standInLayers(rt *rapid.T, w *world) {
	for _, root := range w.lowers {
		require.NoError(rt, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || whiteout.Reserved(d.Name()) || d.Type() != fs.ModeSymlink && d.Type() != 0 {
				return err
			}
			switch how := rapid.IntRange(0, 5).Draw(rt, "stand-in"); {
			case d.Type() == fs.ModeSymlink && how < 3:
				target, err := os.Readlink(p)
				if err != nil {
					return err
				}
				return errors.Join(os.Remove(p), standIn(p, target, "1234:99:0777:symlink"))
			case d.Type() == 0 && how == 0:
				return errors.Join(os.Remove(p), standIn(p, "", "1234:0:0604:pipe"))
			}
			return nil
		}))
	}
}

// standIn makes a file that stands for something else.
func standIn(p, data, value string) error {
	return errors.Join(os.WriteFile(p, []byte(data), 0o600), unix.Setxattr(p, overrideAttrs[OverrideUser][0], []byte(value), 0))
}
