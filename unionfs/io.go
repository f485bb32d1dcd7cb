package unionfs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Read reads from where the file is now.
func (fs *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	r, err := fs.get(in.NodeId)
	if err != nil {
		return nil, status(err)
	}
	file, err := fs.file(r, false)
	if err != nil {
		return nil, status(err)
	}
	defer file.release()
	n, err := preadFull(file.fd, buf[:min(len(buf), fs.readable(r, in))], int64(in.Offset))
	if err != nil {
		return nil, status(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// readable is how many bytes in asks for, without those that are behind the end of a
// file, where that stays: finding it anew would be one more system call.
func (fs *FS) readable(r ref, in *fuse.ReadIn) int {
	size := int(in.Size)
	if fs.live || r.n != nil {
		return size
	}
	var st unix.Stat_t
	if err := fs.tree.stat(r.low, &st); err != nil {
		return size // opening it fails, too
	}
	return int(max(0, min(int64(size), st.Size-int64(in.Offset))))
}

// preadFull reads until buf is full or the file ends: a short answer would mean
// its end to the kernel.
func preadFull(fd int, buf []byte, off int64) (int, error) {
	done := 0
	for done < len(buf) {
		n, err := unix.Pread(fd, buf[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		if n == 0 {
			break
		}
		done += n
	}
	return done, nil
}

// Write writes to the upper, bringing the file up first.
func (fs *FS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n, file, err := fs.fileUp(in.NodeId)
	if err != nil {
		return 0, status(err)
	}
	defer file.release()
	write := pwriteFull
	if in.WriteFlags&fuse.WRITE_CACHE != 0 {
		write = pwriteLate
	}
	done, err := write(file.fd, data, int64(in.Offset))
	if done == 0 && err != nil {
		return 0, status(err)
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		err = fs.killPriv(n)
		if err != nil {
			return 0, status(err)
		}
	}
	return uint32(done), fuse.OK
}

// Writev is Write for data in pieces.
func (fs *FS) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if len(data) == 1 {
		return fs.Write(cancel, in, data[0])
	}
	one, total := *in, uint32(0)
	for _, piece := range data {
		n, st := fs.Write(cancel, &one, piece)
		total += n
		if !st.Ok() || int(n) < len(piece) {
			if total > 0 {
				return total, fuse.OK // the rest comes again, and fails again
			}
			return 0, st
		}
		one.Offset += uint64(n)
	}
	return total, fuse.OK
}

// pwriteFull writes all of data, or as much as fits before err.
func pwriteFull(fd int, data []byte, off int64) (int, error) {
	done := 0
	for done < len(data) {
		n, err := unix.Pwrite(fd, data[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// pwriteLate is pwriteFull for what the kernel had in its cache, from a write that
// cleared the file capabilities in its time, or from a mapping, which clears none: it
// leaves those that the file has by now.
func pwriteLate(fd int, data []byte, off int64) (int, error) {
	const attr = "security.capability"
	buf := make([]byte, 64)
	n, attrErr := unix.Fgetxattr(fd, attr, buf)
	done, err := pwriteFull(fd, data, off)
	if attrErr == nil {
		err = errors.Join(err, unix.Fsetxattr(fd, attr, buf[:n], 0))
	}
	return done, err
}

// Fsync waits until the data of a file is on the disk. Layers are there already.
func (fs *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	r, err := fs.get(in.NodeId)
	if err != nil || r.n == nil || !r.n.upper.Load() || fs.opt.Volatile {
		return status(err)
	}
	file, err := fs.upperFile(r.n, false)
	if err != nil {
		return status(err)
	}
	defer file.release()
	return status(syncFile(r.n, file.fd, in.FsyncFlags&1 != 0)) // FUSE_FSYNC_FDATASYNC
}

// FsyncDir waits until the names in a directory are on the disk.
func (fs *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	r, err := fs.get(in.NodeId)
	if err != nil || r.n == nil || !r.n.upper.Load() || fs.opt.Volatile {
		return status(err)
	}
	fs.ns.RLock()
	defer fs.ns.RUnlock()
	dir, err := fs.upperFD(r.n)
	if err != nil {
		return status(err)
	}
	defer dir.release()
	return status(unix.Fsync(dir.fd))
}

// Fallocate reserves or punches space in the upper.
func (fs *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	n, file, err := fs.fileUp(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer file.release()
	if err := unix.Fallocate(file.fd, in.Mode, int64(in.Offset), int64(in.Length)); err != nil {
		return status(err)
	}
	return status(fs.killPrivOf(n, in.Uid))
}

// Lseek finds data and holes. In Writeback the kernel has data that is a hole
// here, and asks without handing it over: it is told to take everything for data.
func (fs *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if fs.opt.IO == Writeback {
		return fuse.ENOSYS
	}
	r, err := fs.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	file, err := fs.file(r, false)
	if err != nil {
		return status(err)
	}
	defer file.release()
	off, err := unix.Seek(file.fd, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return status(err)
}

// CopyFileRange copies between two files without the data passing through the
// kernel's caches and the caller.
func (fs *FS) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	out, to, err := fs.fileUp(in.NodeIdOut)
	if err != nil {
		return 0, status(err)
	}
	defer to.release()
	r, err := fs.get(in.NodeId) // after the other came up: they may be one file
	if err != nil {
		return 0, status(err)
	}
	from, err := fs.file(r, false)
	if err != nil {
		return 0, status(err)
	}
	defer from.release()
	offIn, offOut := int64(in.OffIn), int64(in.OffOut)
	n, err := unix.CopyFileRange(from.fd, &offIn, to.fd, &offOut, int(min(in.Len, 1<<30)), 0)
	if errors.Is(err, unix.EXDEV) {
		return 0, fuse.Status(unix.EOPNOTSUPP) // the layer is on another file system: the kernel copies by itself
	}
	if err == nil {
		err = fs.killPrivOf(out, in.Uid)
	}
	return uint32(n), status(err)
}
