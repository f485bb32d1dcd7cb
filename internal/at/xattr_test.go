package at

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestXattrWays: each way to the attributes of a file does the same, also those that
// this kernel does not need.
func TestXattrWays(t *testing.T) {
	path := t.TempDir()
	dir, err := OpenRoot(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(dir)) }()
	file := filepath.Join(path, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	if unix.Setxattr(file, "user.probe", nil, 0) != nil {
		t.Skip("the file system of temporary files has no attributes of users")
	}
	require.NoError(t, unix.Removexattr(file, "user.probe"))
	require.NoError(t, os.Symlink("file", filepath.Join(path, "link")))
	open, err := Open(dir, "file", unix.O_RDONLY, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(open)) }()
	byPath, err := Open(dir, "file", unix.O_PATH, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(byPath)) }()

	ways := map[string]xattrCalls{
		"descriptor": openXattrs(open),
		"O_PATH":     openXattrs(byPath),
		"path":       pathXattrs{procFD(dir) + "/file", true},
	}
	links := []xattrCalls{pathXattrs{procFD(dir) + "/link", true}}
	if hasXattrAt() {
		ways["at"] = atXattrs{dir, "file"}
		links = append(links, atXattrs{dir, "link"})
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) { tryXattrs(t, way) })
	}
	for _, link := range links {
		require.Error(t, link.set("user.note", []byte("x"), 0), "a link is not followed")
	}
}

func tryXattrs(t *testing.T, way xattrCalls) {
	_, err := way.get("user.note", nil)
	require.ErrorIs(t, err, unix.ENODATA)
	require.NoError(t, way.set("user.note", []byte("value"), unix.XATTR_CREATE))
	require.ErrorIs(t, way.set("user.note", nil, unix.XATTR_CREATE), unix.EEXIST)
	buf := make([]byte, 3)
	_, err = way.get("user.note", buf)
	require.ErrorIs(t, err, unix.ERANGE)
	buf = make([]byte, 64)
	n, err := way.get("user.note", buf)
	require.NoError(t, err)
	require.Equal(t, "value", string(buf[:n]))
	require.NoError(t, way.set("user.empty", nil, 0))
	n, err = way.get("user.empty", buf)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = way.list(nil)
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, len("user.note")+len("user.empty")+2)
	n, err = way.list(buf)
	require.NoError(t, err)
	require.Contains(t, strings.Split(string(buf[:n]), "\x00"), "user.empty")
	require.NoError(t, way.remove("user.note"))
	require.ErrorIs(t, way.remove("user.note"), unix.ENODATA)
	require.NoError(t, way.remove("user.empty"))
}
