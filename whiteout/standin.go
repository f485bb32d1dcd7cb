package whiteout

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// LinkWord is what [StandIn] takes for a symbolic link, whose target is the data of the file.
const LinkWord = "symlink"

// StandIn reads the word for what a regular file stands for, as containers/storage writes it
// (pkg/idtools) behind UID:GID:MODE: symlink, pipe, socket, char-MAJOR-MINOR or
// block-MAJOR-MINOR. It returns the type, of S_IFMT, and the number of a device; for a word
// that means nothing here, as "file", S_IFREG: the file stands for itself.
func StandIn(word string) (kind uint32, rdev uint64, err error) {
	part := strings.Split(word, "-")
	switch part[0] {
	case LinkWord:
		return unix.S_IFLNK, 0, nil
	case "pipe":
		return unix.S_IFIFO, 0, nil
	case "socket":
		return unix.S_IFSOCK, 0, nil
	case "char":
		kind = unix.S_IFCHR
	case "block":
		kind = unix.S_IFBLK
	default:
		return unix.S_IFREG, 0, nil
	}
	if len(part) != 3 {
		return 0, 0, fmt.Errorf("malformed device %q", word)
	}
	major, err1 := strconv.ParseUint(part[1], 10, 32)
	minor, err2 := strconv.ParseUint(part[2], 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, fmt.Errorf("malformed device %q: %w", word, err)
	}
	return kind, unix.Mkdev(uint32(major), uint32(minor)), nil
}

// StandInWord is the word that [StandIn] reads, "" for a type that has none.
func StandInWord(kind uint32, rdev uint64) string {
	device := fmt.Sprintf("-%d-%d", unix.Major(rdev), unix.Minor(rdev))
	switch kind {
	case unix.S_IFCHR:
		return "char" + device
	case unix.S_IFBLK:
		return "block" + device
	case unix.S_IFLNK:
		return LinkWord
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFSOCK:
		return "socket"
	}
	return ""
}
