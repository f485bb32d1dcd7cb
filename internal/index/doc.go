// Package index is the merged directory tree of one chain of layers, computed
// once, in one flat file that is mapped into memory.
//
// Its law: an index answers exactly what the layers say when they are merged
// name by name (both dialects of whiteouts, opaque directories, redirects), and
// no file, however damaged or crafted, makes it read outside of itself.
//
// The nouns:
//
//   - a [Layer] is a directory and the name under which its contents are known;
//   - an [Index] is an open file: lookups, attributes, directories, links and
//     attributes come from the mapping, without a system call and without a Go
//     object;
//   - an inode is a number below [Index.Len]; the root is 0. A directory has a
//     smaller number than what is in it. A file with several names in a layer has
//     one number, so its names stay together, and its link count is how many of
//     them the tree shows;
//   - a dirent is one name of a directory, which are sorted by their bytes;
//   - a place is a layer and a path in it: where a file is, where its data is if its
//     own layer has only the metadata, and where a directory that was moved by a
//     redirect continues.
//
// # The file
//
// Little endian, version 2. Sections follow each other without gaps, so that
// the counts in the header say where each one is:
//
//	header   128  magic, version, CRC-32C of all but itself, size, counts
//	inodes    64  ino, size, mtime, ctime, atime, set, nlink, dirent, blocks, a, b
//	slots      8  hash of (directory, name): its low half, dirent+1 or 0
//	layers    16  id, root's inode number
//	sets      24  uid, gid, mode, layer, xattrs, parts, block size
//	dirents   12  start of the name, inode, directory; one more ends the last name
//	links      8  inode, dirent: the further names of a file, sorted
//	strings    4  start of each string in text; one more ends the last
//	text          targets of links, lists of xattrs, lists of parts, paths, ids
//	names         the names, one after the other
//
// In an inode a and b are: of a directory its first dirent and how many; of a
// symbolic link the string with its target; of a device its number; of a regular
// file the upper half of blocks. Owner, mode, layer and attributes are a set, which
// thousands of files share. A time is 34 bits of seconds from 1901 to 2446, as
// ext4 keeps it, and 30 bits of nanoseconds; other times become the nearest of
// these. What is not kept is st_dev: the union shows its own.
//
// The table of slots is probed linearly, at 0.6 load, and never further than 32
// slots: a name that has no room there is found by halving its directory. So a
// layer whose names were chosen to collide costs a lookup no more than that.
//
// # Trust
//
// [Open] reads the whole file once: checksum, every reference, the order of
// names, the tree (each directory in one place, below a smaller number), and that
// each name is found by its hash. After that lookups only have Go's own bounds
// checks. The file must not be written to or cut short while it is open: that is
// SIGBUS, or wrong answers. [Build] never does; it puts a new file in the place of
// the old.
//
// Owners and attributes are those that the process that built the index was
// shown: inside a user namespace they are the ids of that namespace, and without
// CAP_SYS_ADMIN there are no trusted attributes. A store that is used from several
// namespaces says so in the ids of its layers.
package index
