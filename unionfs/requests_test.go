package unionfs

import (
	"io"
	"log"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// counter counts the requests that the kernel sends, by their names. It reads
// the log of the server: a line that begins with "rx" is a request.
type counter struct {
	mu    sync.Mutex
	byOp  map[string]int
	total int
}

func (c *counter) Write(line []byte) (int, error) {
	fields := strings.Fields(string(line))
	for i, f := range fields {
		if f == "rx" && i+2 < len(fields) {
			c.mu.Lock()
			// FORGET and RELEASE come when the kernel pleases, and nobody waits for them;
			// INTERRUPT, when a signal meets a test that waits, such as those of Go's scheduler.
			if op := fields[i+2]; !strings.Contains(string(line), "FORGET") && op != "RELEASE" && op != "INTERRUPT" {
				c.byOp[op]++
				c.total++
			}
			c.mu.Unlock()
			break
		}
	}
	return len(line), nil
}

// during returns what was asked while act ran.
func (c *counter) during(act func()) map[string]int {
	c.mu.Lock()
	c.byOp = map[string]int{}
	c.mu.Unlock()
	act()
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.byOp) // what comes late is not of act
}

// TestRequests holds the number of requests an operation costs, which is what
// an operation costs (docs/performance.md).
func TestRequests(t *testing.T) {
	w := newWorld(t, 2)
	require.NoError(t, os.WriteFile(filepath.Join(w.lowers[1], "file"), []byte("some data"), 0o644))
	mkdir(t, w.lowers[1], "dir/sub")
	require.NoError(t, os.Symlink("file", filepath.Join(w.lowers[0], "link")))
	c := &counter{byOp: map[string]int{}}
	opt := w.options()
	opt.Log = log.New(c, "", 0)
	w.mount(t, opt)
	in := func(name string) string { return filepath.Join(w.mnt, name) }

	lstat := func() { var st unix.Stat_t; require.NoError(t, unix.Lstat(in("file"), &st)) }
	read := func() {
		f, err := os.Open(in("file"))
		require.NoError(t, err)
		data, err := io.ReadAll(f)
		require.NoError(t, err)
		require.Equal(t, "some data", string(data))
		require.NoError(t, f.Close())
	}
	readdir := func() {
		list, err := os.ReadDir(in("dir"))
		require.NoError(t, err)
		require.Len(t, list, 1)
	}
	absent := func() { require.ErrorIs(t, unix.Lstat(in("absent"), new(unix.Stat_t)), unix.ENOENT) }
	readlink := func() {
		target, err := os.Readlink(in("link"))
		require.NoError(t, err)
		require.Equal(t, "file", target)
	}
	for _, warm := range []struct {
		name string
		act  func()
	}{{"lstat", lstat}, {"open, read, close", read}, {"readdir", readdir}, {"absent name", absent}, {"readlink", readlink}} {
		require.NotEmpty(t, c.during(warm.act), "%s the first time: is the counter connected?", warm.name)
		warm.act() // a directory is cached when it was read to its end once
		require.Empty(t, c.during(warm.act), "%s, warm", warm.name)
	}
	require.Equal(t, map[string]int{"LOOKUP": 1}, c.during(func() {
		require.ErrorIs(t, unix.Lstat(in("absent too"), new(unix.Stat_t)), unix.ENOENT)
	}))

	create := func(name string) func() {
		return func() {
			fd, err := unix.Open(in(name), unix.O_CREAT|unix.O_WRONLY, 0o644)
			require.NoError(t, err)
			_, err = unix.Write(fd, make([]byte, 1024))
			require.NoError(t, err)
			require.NoError(t, unix.Close(fd))
		}
	}
	create("new0")() // CREATE is refused once, and security.capability asked for
	c.atMost(t, "create, write 1 KiB, close", create("new1"), 5)
	c.atMost(t, "overwrite 100 bytes", func() {
		fd, err := unix.Open(in("new1"), unix.O_WRONLY, 0)
		require.NoError(t, err)
		for range 10 {
			_, err = unix.Pwrite(fd, make([]byte, 100), 0)
			require.NoError(t, err)
		}
		require.NoError(t, unix.Close(fd))
	}, 11)
	c.atMost(t, "mkdir", func() { require.NoError(t, unix.Mkdir(in("d"), 0o755)) }, 3)
	c.atMost(t, "rename", func() { require.NoError(t, unix.Rename(in("new1"), in("new2"))) }, 3)
	c.atMost(t, "unlink", func() { require.NoError(t, unix.Unlink(in("new2"))) }, 2)
	c.atMost(t, "rmdir", func() { require.NoError(t, unix.Rmdir(in("d"))) }, 2)
}

func (c *counter) atMost(t *testing.T, what string, act func(), most int) {
	t.Helper()
	ops, sum := c.during(act), 0
	for _, n := range ops {
		sum += n
	}
	require.LessOrEqual(t, sum, most, "%s: %v", what, ops)
	t.Logf("%s: %v", what, ops)
}
