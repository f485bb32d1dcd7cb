package unionfs

import (
	"bytes"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// raw is what is served: the view as the options want it.
func (fs *FS) raw() fuse.RawFileSystem {
	if fs.figures != nil {
		return &counted{fs.withAttributes(), fs.figures, []byte(fs.opt.Stats)}
	}
	return fs.withAttributes()
}

// withAttributes is the view with the attributes that the options want.
func (fs *FS) withAttributes() fuse.RawFileSystem {
	switch {
	case fs.opt.NoXattrs:
		return withoutXattrs{fs}
	case fs.opt.Override != NoOverride:
		return withoutACL{fs}
	}
	return fs
}

// withoutXattrs is a view that knows no extended attributes. The kernel asks for
// each way of using them once.
type withoutXattrs struct{ *FS }

func (withoutXattrs) GetXAttr(<-chan struct{}, *fuse.InHeader, string, []byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

func (withoutXattrs) ListXAttr(<-chan struct{}, *fuse.InHeader, []byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

func (withoutXattrs) SetXAttr(<-chan struct{}, *fuse.SetXAttrIn, string, []byte) fuse.Status {
	return fuse.ENOSYS
}

func (withoutXattrs) RemoveXAttr(<-chan struct{}, *fuse.InHeader, string) fuse.Status {
	return fuse.ENOSYS
}

// withoutACL is a view that knows no access lists; see Options.Override.
type withoutACL struct{ *FS }

func isACL(attr string) bool { return strings.HasPrefix(attr, "system.posix_acl_") }

func (w withoutACL) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if isACL(attr) {
		return 0, fuse.ENODATA
	}
	return w.FS.GetXAttr(cancel, header, attr, dest)
}

func (w withoutACL) ListXAttr(cancel <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	all := make([]byte, 1<<16) // XATTR_LIST_MAX
	n, st := w.FS.ListXAttr(cancel, header, all)
	if !st.Ok() {
		return 0, st
	}
	var list []byte
	for name := range bytes.SplitAfterSeq(all[:n], []byte{0}) {
		if !isACL(string(name)) {
			list = append(list, name...)
		}
	}
	return answer(dest, list, nil)
}

func (w withoutACL) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	if isACL(attr) {
		return fuse.ENOTSUP
	}
	return w.FS.SetXAttr(cancel, in, attr, data)
}
