package unionfs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// counted is a view whose requests are counted and timed. Each method hands its
// request on to the view and notes how long that took; there is nothing else in it,
// and without Options.Stats no counted at all.
type counted struct {
	fuse.RawFileSystem
	*figures
	place []byte // the value of statsAttr
}

// end notes the end of a request and returns its status.
func (c *counted) end(k op, began time.Duration, st fuse.Status) fuse.Status {
	c.ops[k].add(c.now()-began, st != fuse.OK)
	return st
}

// op is a kind of request.
type op int

const (
	opLookup op = iota
	opForget
	opGetAttr
	opSetAttr
	opStatx
	opMknod
	opMkdir
	opUnlink
	opRmdir
	opRename
	opLink
	opSymlink
	opReadlink
	opAccess
	opGetXAttr
	opListXAttr
	opSetXAttr
	opRemoveXAttr
	opCreate
	opTmpfile
	opOpen
	opRead
	opLseek
	opGetLk
	opSetLk
	opSetLkw
	opRelease
	opWrite
	opCopyFileRange
	opIoctl
	opFlush
	opFsync
	opFallocate
	opOpenDir
	opReadDir
	opReadDirPlus
	opReleaseDir
	opFsyncDir
	opStatFs
	opCount
)

// opNames are those of FUSE, in small letters.
var opNames = [opCount]string{
	opLookup:        "lookup",
	opForget:        "forget",
	opGetAttr:       "getattr",
	opSetAttr:       "setattr",
	opStatx:         "statx",
	opMknod:         "mknod",
	opMkdir:         "mkdir",
	opUnlink:        "unlink",
	opRmdir:         "rmdir",
	opRename:        "rename",
	opLink:          "link",
	opSymlink:       "symlink",
	opReadlink:      "readlink",
	opAccess:        "access",
	opGetXAttr:      "getxattr",
	opListXAttr:     "listxattr",
	opSetXAttr:      "setxattr",
	opRemoveXAttr:   "removexattr",
	opCreate:        "create",
	opTmpfile:       "tmpfile",
	opOpen:          "open",
	opRead:          "read",
	opLseek:         "lseek",
	opGetLk:         "getlk",
	opSetLk:         "setlk",
	opSetLkw:        "setlkw",
	opRelease:       "release",
	opWrite:         "write",
	opCopyFileRange: "copy_file_range",
	opIoctl:         "ioctl",
	opFlush:         "flush",
	opFsync:         "fsync",
	opFallocate:     "fallocate",
	opOpenDir:       "opendir",
	opReadDir:       "readdir",
	opReadDirPlus:   "readdirplus",
	opReleaseDir:    "releasedir",
	opFsyncDir:      "fsyncdir",
	opStatFs:        "statfs",
}

func (c *counted) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	began := c.now()
	return c.end(opLookup, began, c.RawFileSystem.Lookup(cancel, in, name, out))
}

func (c *counted) Forget(node, count uint64) {
	began := c.now()
	c.RawFileSystem.Forget(node, count)
	c.end(opForget, began, fuse.OK)
}

func (c *counted) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	began := c.now()
	return c.end(opGetAttr, began, c.RawFileSystem.GetAttr(cancel, in, out))
}

func (c *counted) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	began := c.now()
	return c.end(opSetAttr, began, c.RawFileSystem.SetAttr(cancel, in, out))
}

func (c *counted) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	began := c.now()
	return c.end(opStatx, began, c.RawFileSystem.Statx(cancel, in, out))
}

func (c *counted) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	began := c.now()
	return c.end(opMknod, began, c.RawFileSystem.Mknod(cancel, in, name, out))
}

func (c *counted) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	began := c.now()
	return c.end(opMkdir, began, c.RawFileSystem.Mkdir(cancel, in, name, out))
}

func (c *counted) Unlink(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	began := c.now()
	return c.end(opUnlink, began, c.RawFileSystem.Unlink(cancel, in, name))
}

func (c *counted) Rmdir(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	began := c.now()
	return c.end(opRmdir, began, c.RawFileSystem.Rmdir(cancel, in, name))
}

func (c *counted) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	began := c.now()
	return c.end(opRename, began, c.RawFileSystem.Rename(cancel, in, oldName, newName))
}

func (c *counted) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	began := c.now()
	return c.end(opLink, began, c.RawFileSystem.Link(cancel, in, name, out))
}

func (c *counted) Symlink(cancel <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	began := c.now()
	return c.end(opSymlink, began, c.RawFileSystem.Symlink(cancel, in, target, name, out))
}

func (c *counted) Readlink(cancel <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	began := c.now()
	target, st := c.RawFileSystem.Readlink(cancel, in)
	return target, c.end(opReadlink, began, st)
}

func (c *counted) Access(cancel <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	began := c.now()
	return c.end(opAccess, began, c.RawFileSystem.Access(cancel, in))
}

func (c *counted) GetXAttr(cancel <-chan struct{}, in *fuse.InHeader, attr string, dest []byte) (n uint32, st fuse.Status) {
	began := c.now()
	if isStatsAttr(in, attr) {
		n, st = answer(dest, c.place, nil)
	} else {
		n, st = c.RawFileSystem.GetXAttr(cancel, in, attr, dest)
	}
	return n, c.end(opGetXAttr, began, st)
}

func (c *counted) ListXAttr(cancel <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	began := c.now()
	n, st := c.RawFileSystem.ListXAttr(cancel, in, dest)
	return n, c.end(opListXAttr, began, st)
}

func (c *counted) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, value []byte) fuse.Status {
	began := c.now()
	return c.end(opSetXAttr, began, c.RawFileSystem.SetXAttr(cancel, in, attr, value))
}

func (c *counted) RemoveXAttr(cancel <-chan struct{}, in *fuse.InHeader, attr string) fuse.Status {
	began := c.now()
	return c.end(opRemoveXAttr, began, c.RawFileSystem.RemoveXAttr(cancel, in, attr))
}

func (c *counted) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	began := c.now()
	return c.end(opCreate, began, c.RawFileSystem.Create(cancel, in, name, out))
}

func (c *counted) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	began := c.now()
	return c.end(opTmpfile, began, c.RawFileSystem.Tmpfile(cancel, in, out))
}

func (c *counted) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	began := c.now()
	return c.end(opOpen, began, c.RawFileSystem.Open(cancel, in, out))
}

func (c *counted) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	began := c.now()
	result, st := c.RawFileSystem.Read(cancel, in, buf)
	if st.Ok() {
		c.read.Add(uint64(result.Size()))
	}
	return result, c.end(opRead, began, st)
}

func (c *counted) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	began := c.now()
	return c.end(opLseek, began, c.RawFileSystem.Lseek(cancel, in, out))
}

func (c *counted) GetLk(cancel <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	began := c.now()
	return c.end(opGetLk, began, c.RawFileSystem.GetLk(cancel, in, out))
}

func (c *counted) SetLk(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	began := c.now()
	return c.end(opSetLk, began, c.RawFileSystem.SetLk(cancel, in))
}

func (c *counted) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	began := c.now()
	return c.end(opSetLkw, began, c.RawFileSystem.SetLkw(cancel, in))
}

func (c *counted) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	began := c.now()
	c.RawFileSystem.Release(cancel, in)
	c.end(opRelease, began, fuse.OK)
}

func (c *counted) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	began := c.now()
	n, st := c.RawFileSystem.Write(cancel, in, data)
	c.written.Add(uint64(n))
	return n, c.end(opWrite, began, st)
}

func (c *counted) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	began := c.now()
	n, st := c.RawFileSystem.Writev(cancel, in, data)
	c.written.Add(uint64(n))
	return n, c.end(opWrite, began, st)
}

func (c *counted) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	began := c.now()
	n, st := c.RawFileSystem.CopyFileRange(cancel, in)
	c.copied.Add(uint64(n))
	return n, c.end(opCopyFileRange, began, st)
}

func (c *counted) Ioctl(cancel <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte) fuse.Status {
	began := c.now()
	return c.end(opIoctl, began, c.RawFileSystem.Ioctl(cancel, in, inbuf, out, outbuf))
}

func (c *counted) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	began := c.now()
	return c.end(opFlush, began, c.RawFileSystem.Flush(cancel, in))
}

func (c *counted) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	began := c.now()
	return c.end(opFsync, began, c.RawFileSystem.Fsync(cancel, in))
}

func (c *counted) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	began := c.now()
	return c.end(opFallocate, began, c.RawFileSystem.Fallocate(cancel, in))
}

func (c *counted) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	began := c.now()
	return c.end(opOpenDir, began, c.RawFileSystem.OpenDir(cancel, in, out))
}

func (c *counted) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	began := c.now()
	return c.end(opReadDir, began, c.RawFileSystem.ReadDir(cancel, in, out))
}

func (c *counted) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	began := c.now()
	return c.end(opReadDirPlus, began, c.RawFileSystem.ReadDirPlus(cancel, in, out))
}

func (c *counted) ReleaseDir(in *fuse.ReleaseIn) {
	began := c.now()
	c.RawFileSystem.ReleaseDir(in)
	c.end(opReleaseDir, began, fuse.OK)
}

func (c *counted) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	began := c.now()
	return c.end(opFsyncDir, began, c.RawFileSystem.FsyncDir(cancel, in))
}

func (c *counted) StatFs(cancel <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	began := c.now()
	return c.end(opStatFs, began, c.RawFileSystem.StatFs(cancel, in, out))
}
