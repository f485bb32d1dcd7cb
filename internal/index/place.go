package index

import (
	"bytes"
	"iter"
	"slices"
	"sort"

	"golang.org/x/sys/unix"
)

// A list of parts is a string of the text: for each, top first, the layer (2
// bytes), 2 bytes of zero, and the string with its path where a redirect moved it,
// none where the names say where it is. A regular file has a list if it has only its
// metadata in its layer: that, and the layer and path of its data if one has it.

// Place is where a file is: its topmost layer, counted from 0, and its path in
// that, which differs from Path where a directory above it was moved. The path is
// relative, "" for the root. Of several names it is the first.
func (x *Index) Place(inode uint32) (layer int, path string) {
	layer = x.Layer(inode)
	return layer, x.PathIn(inode, layer)
}

// PathIn is the path of a file in one layer that has it, relative to its root.
func (x *Index) PathIn(inode uint32, layer int) string {
	var names [][]byte
	for n := inode; n != 0; {
		if moved, ok := x.movedIn(n, layer); ok {
			names = append(names, moved)
			break
		}
		d := x.dirent(n)
		names = append(names, x.name(d))
		n = x.parent(d)
	}
	return join(names)
}

// Path is the path of a file in the tree, relative to its root, "" for the root.
// Of several names it is the first.
func (x *Index) Path(inode uint32) string {
	var names [][]byte
	for n := inode; n != 0; {
		d := x.dirent(n)
		names = append(names, x.name(d))
		n = x.parent(d)
	}
	return join(names)
}

// join makes a path of names, the last one first.
func join(names [][]byte) string {
	names = slices.DeleteFunc(names, func(n []byte) bool { return len(n) == 0 })
	slices.Reverse(names)
	return string(bytes.Join(names, []byte("/")))
}

// dirent is the first name of a file; the root has none.
func (x *Index) dirent(n uint32) uint32 { return le.Uint32(x.inode(n)[48:]) }

// movedIn is where the directory n is in one layer, if a redirect moved it there.
func (x *Index) movedIn(n uint32, layer int) (path []byte, ok bool) {
	list := x.str(x.setOf(n).parts)
	i := sort.Search(len(list)/partSize, func(i int) bool { return partLayer(list, i) >= layer })
	if i*partSize >= len(list) || partLayer(list, i) != layer {
		return nil, false
	}
	id := partPath(list, i)
	if id == none {
		return nil, false
	}
	return x.str(id), true
}

// Data is the layer and the path in it where the data of a regular file is: mostly
// its Place. It is not ok if no layer has the data.
func (x *Index) Data(inode uint32) (layer int, path string, ok bool) {
	list := x.str(x.setOf(inode).parts)
	switch {
	case len(list) == 0 || x.Kind(inode) != unix.S_IFREG:
		layer, path = x.Place(inode)
		return layer, path, true
	case len(list) == partSize:
		return 0, "", false
	}
	layer = partLayer(list, 1)
	return layer, x.PathIn(inode, layer), true
}

// Elsewhere tells whether a regular file has only its metadata in its layer, so that
// Data is not its Place.
func (x *Index) Elsewhere(inode uint32) bool {
	return x.Kind(inode) == unix.S_IFREG && len(x.str(x.setOf(inode).parts)) > 0
}

func partLayer(list []byte, i int) int   { return int(le.Uint16(list[i*partSize:])) }
func partPath(list []byte, i int) uint32 { return le.Uint32(list[i*partSize+4:]) }

// Parts gives the layers that have a part in a directory, top first, and its path
// in each; for a regular file its place and that of its data, if they differ, and for
// anything else its place.
func (x *Index) Parts(inode uint32) iter.Seq2[int, string] {
	return func(yield func(layer int, path string) bool) {
		list := x.str(x.setOf(inode).parts)
		if len(list) == 0 {
			yield(x.Place(inode))
			return
		}
		for i := range len(list) / partSize {
			if layer := partLayer(list, i); !yield(layer, x.PathIn(inode, layer)) {
				return
			}
		}
	}
}

// Names gives all names of a file: the directory and the name in it. The root has
// none, another directory one, a file as many as Stat counts.
func (x *Index) Names(inode uint32) iter.Seq2[uint32, []byte] {
	return func(yield func(dir uint32, name []byte) bool) {
		if inode == 0 {
			return
		}
		d := x.dirent(inode)
		if !yield(x.parent(d), x.name(d)) || x.Kind(inode) == unix.S_IFDIR {
			return
		}
		for k := x.firstLink(inode); k < len(x.links)/linkSize; k++ {
			n, d := x.link(k)
			if n != inode || !yield(x.parent(d), x.name(d)) {
				return
			}
		}
	}
}

// firstLink is where the further names of n begin, if it has any.
func (x *Index) firstLink(n uint32) int {
	return sort.Search(len(x.links)/linkSize, func(k int) bool {
		have, _ := x.link(k)
		return have >= n
	})
}

func (x *Index) link(k int) (inode, dirent uint32) {
	rec := x.links[k*linkSize:][:linkSize]
	return le.Uint32(rec), le.Uint32(rec[4:])
}
