package runner

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// setSysctls writes values of the kernel's to the /proc behind the descriptor proc, which is
// attached nowhere yet: no name of the image and no volume is in the way of them
// (CVE-2019-19921, CVE-2025-52881), and nothing has been made read-only. Which namespace
// they are of is decided by that of who opens them.
func setSysctls(proc int, values map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if err := setSysctl(proc, name, values[name]); err != nil {
			return fmt.Errorf("set the sysctl %s: %w", name, err)
		}
	}
	return nil
}

func setSysctl(proc int, name, value string) error {
	file := path.Join("sys", strings.ReplaceAll(name, ".", "/")) // no ".." is left of it
	fail := func(op string, err error) error { return &os.PathError{Op: op, Path: "/proc/" + file, Err: err} }
	fd, err := at.InRoot(proc, file, unix.O_WRONLY)
	if err != nil {
		return fail("open", errors.Unwrap(err))
	}
	defer func() { _ = unix.Close(fd) }() // the write has told
	// A /proc of this machine may be covered in part.
	var st unix.Statfs_t
	if err = unix.Fstatfs(fd, &st); err == nil && st.Type != unix.PROC_SUPER_MAGIC {
		err = errors.New("it is not the kernel's")
	}
	if err != nil {
		return fail("open", err)
	}
	if _, err = unix.Write(fd, []byte(value)); err != nil {
		return fail("write", err)
	}
	return nil
}
