package archive

import (
	"errors"
	"fmt"
	"strings"

	"github.com/varvefs/varve/whiteout"
)

// ErrUnsafe is wrapped by every refusal of an entry that, taken literally, would
// reach out of the layer or can not be the file of any layer.
var ErrUnsafe = errors.New("unsafe entry")

func unsafeEntry(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsafe, fmt.Sprintf(format, args...))
}

// cleanName makes the name of an entry, or the target of a hard link, relative
// to the root of the layer: "a/b", or "" for the root itself. Leading slashes
// are dropped as tar(1) does; ".." is refused rather than resolved, because no
// honest archive has it.
func cleanName(unsafeName string) (string, error) {
	if strings.IndexByte(unsafeName, 0) >= 0 {
		return "", unsafeEntry("the name has a NUL byte")
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
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/"), nil
}

// isClean tells without allocating whether name is what cleanName would return.
func isClean(name string) bool {
	if name == "" {
		return true
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
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
