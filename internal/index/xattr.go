package index

import "iter"

// A list of extended attributes is a string of the text: for each, sorted by
// name, the lengths of name (2 bytes) and value (4 bytes), then both.
const xattrHead = 6

func appendXattr(list []byte, name string, value []byte) []byte {
	list = le.AppendUint16(list, uint16(len(name)))
	list = le.AppendUint32(list, uint32(len(value)))
	list = append(list, name...)
	return append(list, value...)
}

// cutXattr takes the first attribute off a list. It is not ok where lengths
// lead out of the list.
func cutXattr(list []byte) (name, value, rest []byte, ok bool) {
	if len(list) < xattrHead {
		return nil, nil, nil, false
	}
	n, v := uint64(le.Uint16(list)), uint64(le.Uint32(list[2:]))
	list = list[xattrHead:]
	if n+v > uint64(len(list)) {
		return nil, nil, nil, false
	}
	return list[:n:n], list[n : n+v : n+v], list[n+v:], true
}

// Xattr is one extended attribute of a file, in its topmost layer. The union's
// own are not there.
func (x *Index) Xattr(inode uint32, name string) (value []byte, ok bool) {
	list := x.str(x.setOf(inode).xattrs)
	for len(list) > 0 {
		var have, value []byte
		if have, value, list, ok = cutXattr(list); !ok {
			return nil, false
		}
		if string(have) == name {
			return value, true
		}
	}
	return nil, false
}

// Xattrs gives all extended attributes of a file, in its topmost layer, sorted by
// name, without the union's own.
func (x *Index) Xattrs(inode uint32) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		list := x.str(x.setOf(inode).xattrs)
		for len(list) > 0 {
			name, value, rest, ok := cutXattr(list)
			if !ok || !yield(name, value) {
				return
			}
			list = rest
		}
	}
}
