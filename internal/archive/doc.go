// Package archive brings layers in from tar streams and gives them back.
//
// Its law: what came in goes out again byte for byte, and no archive, however
// made, reaches anything outside the directory it is unpacked into. The nouns:
//
//   - a layer directory holds diff/, one layer's files as plain files, and
//     tar-split.gz, everything of the layer's tar that is not in those files: the
//     raw headers and paddings, and for each file its path below diff/ and a
//     checksum (the format is that of github.com/vbatts/tar-split);
//   - kept/ beside them, seldom there, holds files that the archive itself
//     replaced by a later entry of the same name, since the tar has both;
//   - an archive of images is what docker save writes: an OCI layout with a
//     manifest.json beside it, in one tar ([Save]); what others write has one of the
//     two ([Images]);
//   - an [Intake] brings layers of known digests and the images made of them into a
//     store, whatever they come from;
//   - a tree of plain files, no layer, becomes a tar ([Files], [WriteTree]), and a tar a
//     tree ([Extract]).
//
// How an entry is placed: every name is taken relative to the root of the layer,
// also an absolute one; ".." is refused. Parents are created where the archive
// does not name them. A parent that is a symbolic link made by the same archive
// is resolved inside the layer, as chroot would, never by the kernel's ordinary
// rules; for a whiteout it is refused. Nothing existing is ever opened for
// writing: a file that is in the way is moved out of it first.
//
// Whiteouts are stored in the dialect that the file system of the layer directory
// can hold (see package whiteout) and are the OCI names in every tar.
//
// What the host does not let us make is kept as metadata in the extended
// attribute of [OverrideAttr]; a regular file stands for a device then, and for the
// symbolic link or FIFO of another owner, which can not carry the attribute. What is not
// stored at all, but is still in the regenerated tar: extended attributes that we may not
// set (without root all but user.*), and those that are the union's own bookkeeping.
package archive
