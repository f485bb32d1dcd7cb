// Package unionfs is the view: the union of read-only layers and one upper, as
// FUSE shows it.
//
// Its law: what a program sees is what it would see in a plain directory that
// began as a copy of the layers; and no layer is ever written. It needs no engine:
// [Mount] takes directories, and [OpenTree] gives the union of layers without a
// mount.
//
// # The nouns
//
//   - A [Tree] is the read-only union of the layers. It numbers its files
//     ([Inum]), merges a directory once, when first needed, and then answers
//     lookups without a system call (tree.go, tree_merge.go, tree_walk.go). Who walks it
//     finds the next directories merged already (tree_ahead.go).
//   - An upperDir is what the upper says of one directory, and no more: names it
//     has, names it hides. A name it does not mention is as the tree has it (dir.go).
//   - A node is the record of a file that the upper has or that was removed. A
//     lower file that is only looked at has none: its node id is its Inum plus one
//     (node.go).
//   - A ref is either.
//
// How requests arrive, over /dev/fuse (dev.go) or io_uring (uring.go), is known to
// these two and transport.go alone. A request goes from the kernel to a method of [FS] in the file named after it
// (lookup.go, readdir.go, io.go, attr.go, xattr.go, create.go, remove.go,
// rename.go). What changes a lower file first calls FS.up (up.go), which has package
// copyup make a copy beside the view and puts it in its place, parents
// first. What takes a name away leaves a whiteout where a layer has the name.
//
// # How little is asked
//
// OPEN, OPENDIR, FLUSH and CREATE are answered ENOSYS, so the kernel stops
// asking, and everything it learns it may keep for an hour, also that a name is
// absent: nobody else changes the view. So warm work costs no request at all
// (requests_test.go holds the counts). Requests carry a node and no handle;
// descriptors are kept in an LRU (fdcache.go).
//
// That is the [Mode] Cached. Writeback lets the kernel collect writes, Plain hears of
// every open and close (open.go), and Passthrough lets the kernel read and write
// the files of the upper by itself (passthrough.go).
//
// What a view does can be counted and timed (stats.go): [Server.Stats] tells, if
// Options.Stats asked for it, and nothing is in the way of a request otherwise.
//
// # Locks, in the order in which they are taken
//
//  1. node.copying, while a file is brought up, or later its data, or while the
//     metadata of one without its data changes; its parents came before it.
//     Nothing else is held when it is taken.
//  2. FS.ns, for writing by what takes names away (unlink, rmdir, rename), for
//     reading by what finds a file by its name. It is held during system calls on
//     the upper, but never while data is copied.
//  3. upperDir.mu, a parent's before a child's.
//  4. inode.loading of the tree, while a directory is merged.
//  5. node.mu, nodeTable.mu, Tree.mu, fdCache.mu, devTable.mu, backings.mu: for a few
//     instructions, with nothing taken inside.
//
// Server.closing, for reading, comes before all of them, in those who look at a view
// and are no request.
//
// A function that ends in Locked, or says so under Preconditions, needs one held.
//
// # On the disk
//
// The upper has plain files, whiteouts in one of the two dialects of package
// whiteout, redirects in the kernel's form (redirect.go), files of which only the
// metadata was brought up, in the kernel's form, too (metacopy.go), and the inode numbers of
// files that were brought up (copyup/ino.go); kernel overlayfs mounts an upper of
// the overlay dialect. Each operation is one rename or one creation, so that a crash leaves it
// whole or absent; what it prepared lies in the work directory, which is emptied
// at the next mount.
package unionfs
