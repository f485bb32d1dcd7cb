// Package whiteout is what a directory of a layer says of the layers below it:
// how "hidden here" is written, and "you have it elsewhere", and read back.
//
// Its law: what is hidden, then read back, is the same set of names, in either
// dialect. The nouns:
//
//   - a whiteout hides one name of the layers below;
//   - an opaque directory hides every name of the layers below it;
//   - a redirect says where the layers below have a directory that was renamed;
//   - a metacopy is a file with only its metadata: the layers below have its data;
//   - a stand-in is a regular file that stands for one of another type ([StandIn]);
//   - a dialect is a way to write the first two;
//   - a [Survey] is all that a whole layer says, and what is wrong with it. By
//     [Convert] it says the same in another dialect.
//
// The overlay dialect is the kernel's (Documentation/filesystems/overlayfs.rst,
// "whiteouts and opaque directories"): a character device 0/0, and the extended
// attribute trusted.overlay.opaque, or user.overlay.opaque, with the value "y".
// The OCI dialect is that of image layers (image-spec layer.md, "Whiteouts",
// taken from AUFS): an empty file ".wh.NAME", and a file ".wh..wh..opq".
//
// Writing takes one dialect; reading understands both at once, also mixed in one
// directory, and fuse-overlayfs' user.fuseoverlayfs.opaque besides. An entry and
// a whiteout of the same name in one directory mean the entry, with nothing
// below it: the whiteout speaks only of the layers below.
package whiteout
