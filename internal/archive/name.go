package archive

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/whiteout"
)

// ErrUnsafe is wrapped by every refusal of an entry that, taken literally, would
// reach out of the layer or can not be the file of any layer.
var ErrUnsafe = errors.New("unsafe entry")

func unsafeEntry(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsafe, fmt.Sprintf(format, args...))
}

const (
	// maxName is the longest file name, and maxPath the longest path that is
	// unpacked; the system's PATH_MAX is no limit here, for no path is given whole.
	maxName = 255
	maxPath = 32 << 10
)

// cleanName makes the name of an entry, or the target of a hard link, relative
// to the root of the layer: "a/b", or "" for the root itself. Leading slashes
// are dropped as tar(1) does; ".." is refused rather than resolved, because no
// honest archive has it.
func cleanName(unsafeName string) (string, error) {
	if strings.IndexByte(unsafeName, 0) >= 0 {
		return "", unsafeEntry("the name has a NUL byte")
	}
	if len(unsafeName) > maxPath {
		return "", unsafeEntry("a name of %d bytes is longer than the %d that are allowed", len(unsafeName), maxPath)
	}
	if isClean(unsafeName) {
		return unsafeName, nil
	}
	parts := make([]string, 0, strings.Count(unsafeName, "/")+1)
	for part := range strings.SplitSeq(unsafeName, "/") {
		switch part {
		case "", ".":
		case "..":
			return "", unsafeEntry(`the name leads out of the layer with ".."`)
		default:
			if err := checkLength(part); err != nil {
				return "", err
			}
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/"), nil
}

// checkLength refuses a component that no file can be called. The name of a
// whiteout may be longer, since not every dialect writes its prefix to disk.
func checkLength(part string) error {
	if n := len(strings.TrimPrefix(part, whiteout.Prefix)); n > maxName {
		return fmt.Errorf("%w of %d bytes: no file can have more than %d", unix.ENAMETOOLONG, n, maxName)
	}
	return nil
}

// isClean tells without allocating whether name is what cleanName would return.
func isClean(name string) bool {
	if name == "" {
		return true
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || len(part) > maxName {
			return false
		}
	}
	return true
}

// splitName cuts a clean name into its parent, "" for the root, and its last
// component.
func splitName(name string) (parent, base string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

func joinName(parent, base string) string {
	if parent == "" {
		return base
	}
	return parent + "/" + base
}

// parentMark looks for whiteout names among the directories of a clean path.
// AUFS kept hard links below ".wh..wh.plnk", which is no part of the layer
// ([whiteout.Meta]); below any other such name there can be nothing.
func parentMark(parent string) (whiteout.Mark, error) {
	if !strings.Contains(parent, whiteout.Prefix) {
		return whiteout.Plain, nil
	}
	for part := range strings.SplitSeq(parent, "/") {
		mark, _, err := whiteout.Parse(part)
		switch {
		case err != nil:
			return whiteout.Plain, unsafeEntry("%v", err)
		case mark == whiteout.Meta:
			return whiteout.Meta, nil
		case mark != whiteout.Plain:
			return whiteout.Plain, unsafeEntry("it lies below the whiteout %q", part)
		}
	}
	return whiteout.Plain, nil
}

// quote shows a name of an archive in an error: printable, and not endless.
func quote(name string) string {
	const most = 300
	if len(name) <= most {
		return strconv.Quote(name)
	}
	return strconv.Quote(name[:most/2]) + "…" + strconv.Quote(name[len(name)-most/4:])
}
