package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// withStrangers is the small root with links and FIFOs of others in it.
func withStrangers(t *testing.T) []byte {
	t.Helper()
	small, err := os.ReadFile(testenv.Busybox(t).Tar)
	require.NoError(t, err)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for r := tar.NewReader(bytes.NewReader(small)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.NoError(t, w.WriteHeader(header))
		_, err = io.Copy(w, r)
		require.NoError(t, err)
	}
	for _, header := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "low", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "low/file", Mode: 0o644},
		{Typeflag: tar.TypeSymlink, Name: "low/theirs", Linkname: "file", Mode: 0o777, Uid: 33, Gid: 44},
		{Typeflag: tar.TypeSymlink, Name: "low/kept", Linkname: "file", Mode: 0o777, Uid: 33, Gid: 44},
		{Typeflag: tar.TypeSymlink, Name: "low/root's", Linkname: "file", Mode: 0o777},
		{Typeflag: tar.TypeSymlink, Name: "low/dir", Linkname: "/low", Mode: 0o777, Uid: 33, Gid: 44},
		{Typeflag: tar.TypeReg, Name: "low/dir/through", Mode: 0o644},
		{Typeflag: tar.TypeFifo, Name: "low/pipe", Mode: 0o640, Uid: 33, Gid: 44},
	} {
		require.NoError(t, w.WriteHeader(&header))
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// whose has stat say owner and type of files, and where links lead.
const whose = `cd /; for f in "$@"; do stat -c "%u:%g %A %N" "$f"; done`

// TestOwnersOfLinks: with a single id symbolic links, FIFOs and sockets have owners as all
// else has, in a container, in its image, in tars, and in a store of root's.
func TestOwnersOfLinks(t *testing.T) {
	testenv.FUSE(t)
	u := testenv.Single(t)
	testenv.CheckLeaks(t)
	h := newHome(t, &u)
	dir := u.Dir(t)
	low := filepath.Join(dir, "low.tar")
	require.NoError(t, os.WriteFile(low, withStrangers(t), 0o644))
	h.ok(t, "import", low, "low:1")
	defer h.ok(t, "rmi", "low:1")
	asker := buildAsker(t, u)
	h.ok(t, "run", "-d", "--name", "long", "-v", asker+":/asker", "low:1", "sleep", "600")
	defer h.ok(t, "rm", "-f", "long")
	do := func(script string) string { return h.ok(t, "exec", "long", "sh", "-ec", script) }
	ask := func(files ...string) string {
		return h.ok(t, append([]string{"exec", "long", "sh", "-ec", whose, "sh"}, files...)...)
	}

	require.Equal(t, "33:44 lrwxrwxrwx 'low/theirs' -> 'file'\n33:44 lrwxrwxrwx 'low/dir' -> '/low'\n"+
		"0:0 lrwxrwxrwx 'low/root's' -> 'file'\n33:44 prw-r----- low/pipe\n",
		ask("low/theirs", "low/dir", "low/root's", "low/pipe"))
	require.Equal(t, "A /asker\n", h.ok(t, "diff", "long"))

	do(`cd /low; chown -h 5:6 theirs "root's" pipe; mkdir /new; cd /new
		ln -s ../low/file link; stat -c %u link; chown -h 33:44 link; readlink link; cat link
		ln link hard; ln -s nowhere gone; chown -h 1:1 gone; rm gone
		ln -s target before; chown -h 2147483648:7 before; mv before after
		mkfifo -m 600 pipe; (cat pipe >heard) & echo through >pipe; wait; chown 7:8 pipe
		touch /new/file; chown 9:9 file; ln -s file /low/dir/fresh; ls -l /low/dir/fresh; rm /low/dir/fresh`)
	require.Equal(t, "came through\n", h.ok(t, "exec", "long", "/asker", "listen", "/new/socket"))
	require.Equal(t, "0 33 <nil>\n", do("ln -s x /new/given; /asker give /new/given 33; rm /new/given"))
	do("chown 10:11 /new/socket; chmod 640 /new/socket")
	h.ok(t, "exec", "-u", "12:13", "long", "sh", "-ec", "cd /tmp; ln -s mine made; mkfifo pipe")
	want := "5:6 lrwxrwxrwx 'low/theirs' -> 'file'\n5:6 lrwxrwxrwx 'low/root's' -> 'file'\n5:6 prw-r----- low/pipe\n" +
		"33:44 lrwxrwxrwx 'low/kept' -> 'file'\n33:44 lrwxrwxrwx 'new/link' -> '../low/file'\n33:44 lrwxrwxrwx 'new/hard' -> '../low/file'\n" +
		"2147483648:7 lrwxrwxrwx 'new/after' -> 'target'\n7:8 prw------- new/pipe\n12:13 lrwxrwxrwx 'tmp/made' -> 'mine'\n12:13 prw-r--r-- tmp/pipe\n"
	files := []string{"low/theirs", "low/root's", "low/pipe", "low/kept", "new/link", "new/hard", "new/after", "new/pipe", "tmp/made", "tmp/pipe"}
	require.Equal(t, want, ask(files...))
	require.Equal(t, "10:11 srw-r----- new/socket\n", ask("new/socket"))
	require.Equal(t, "2 33\n", do("chown -h 33:45 /new/hard; chown -h 33:44 /new/link; stat -c '%h %u' /new/hard"))
	require.Equal(t, "after\nfile\nhard\nheard\nlink\npipe\nsocket\n", do("ls /new"))
	require.Equal(t, "/new/after\n/new/hard\n/new/link\n", sortedLines(do("find /new -type l")))
	require.Equal(t, "through\n", do("cat /new/heard"))
	_, code := h.run(t, "exec", "long", "test", "-e", "/new/before")
	require.Equal(t, 1, code)

	// What is copied out is a link, too.
	target := filepath.Join(dir, "copied")
	h.ok(t, "cp", "long:/new/link", target)
	read, err := os.Readlink(target)
	require.NoError(t, err)
	require.Equal(t, "../low/file", read)

	h.ok(t, "commit", "long", "done:1")
	defer h.ok(t, "rmi", "done:1")
	owners := map[string][2]int{
		"low/theirs": {5, 6}, "low/root's": {5, 6}, "low/pipe": {5, 6}, "new/link": {33, 44}, "new/hard": {33, 44},
		"new/after": {2147483648, 7}, "new/pipe": {7, 8}, "tmp/made": {12, 13}, "tmp/pipe": {12, 13}, "low/kept": {33, 44}, "low/dir": {33, 44},
	}
	requireOwners := func(list map[string][2]int) {
		t.Helper()
		for name, owner := range owners {
			require.Equal(t, owner, list[name], name)
		}
		require.NotContains(t, list, "new/socket", "it means nothing without its program")
		require.NotContains(t, list, "new/gone")
	}
	requireOwners(tarOwners(t, h.ok(t, "export", "long")))
	require.Equal(t, want, h.ok(t, append([]string{"run", "--rm", "done:1", "sh", "-ec", whose, "sh"}, files...)...))
	h.ok(t, "run", "--name", "after", "done:1", "sh", "-ec", "cat /new/link; ls /low/dir/through")
	defer h.ok(t, "rm", "after")
	require.Empty(t, h.ok(t, "diff", "after"))
	h.ok(t, "commit", "after", "after:1")
	defer h.ok(t, "rmi", "after:1")
	requireOwners(tarOwners(t, h.ok(t, "export", "after")))
	require.Contains(t, h.ok(t, "system", "check"), "0 problems")

	// Into another store, through an archive of the image and through an exported tree.
	saved, tree := filepath.Join(dir, "done.tar"), filepath.Join(dir, "tree.tar")
	h.ok(t, "save", "-o", saved, "done:1")
	h.ok(t, "export", "-o", tree, "after")
	other := newHome(t, otherUser(t, u))
	other.ok(t, "load", "-i", saved)
	other.ok(t, "import", tree, "tree:1")
	for _, image := range []string{"done:1", "tree:1"} {
		require.Equal(t, want, other.ok(t, append([]string{"run", "--rm", image, "sh", "-ec", whose, "sh"}, files...)...), image)
		other.ok(t, "rmi", image)
	}
}

// otherUser is root, if this is a test as root, and the same user otherwise.
func otherUser(t *testing.T, u testenv.User) *testenv.User {
	t.Helper()
	if testenv.IsRoot() {
		return nil
	}
	return &u
}

// TestNoViewOfLinks: where there is no FUSE, and files stand for links, a container stands on
// a copy that has links, which are root's there, as before. What was not changed is not
// changed.
func TestNoViewOfLinks(t *testing.T) {
	testenv.Root(t)
	testenv.FUSE(t)
	u := testenv.Single(t)
	testenv.CheckLeaks(t)
	h := newHome(t, &u)
	low := filepath.Join(u.Dir(t), "low.tar")
	require.NoError(t, os.WriteFile(low, withStrangers(t), 0o644))
	h.ok(t, "import", low, "low:1")
	defer h.ok(t, "rmi", "low:1")
	h.ok(t, "run", "--name", "poor", "low:1", "sh", "-ec", "test -L /new || ln -s /low/file /new; chown -h 5:6 /new")
	defer h.ok(t, "rm", "poor")
	out := h.manage(t, emptyDev, "start", "-a", "poor")
	require.Contains(t, out, "which keeps its owner in a file that stands for it")
	h.manage(t, emptyDev, "run", "--name", "read", "low:1", "sh", "-ec", "readlink /low/theirs; test -p /low/pipe; test -f /low/dir/through")
	defer h.ok(t, "rm", "read")
	require.Empty(t, h.ok(t, "diff", "read"))
	list := tarOwners(t, h.ok(t, "export", "read"))
	require.Equal(t, [2]int{33, 44}, list["low/theirs"])
	require.Equal(t, [2]int{33, 44}, list["low/pipe"])
	require.Equal(t, "/low/file", strings.TrimSpace(h.ok(t, "run", "--rm", "low:1", "sh", "-c", "ln -s /low/file /new; readlink /new")))
}

// TestStoreStaysOfASingleID: who is granted a range of ids goes on with the store that he has,
// where files stand for links, as before, and begins another one with the range. That one has
// links also while the range is away.
func TestStoreStaysOfASingleID(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t) // to grant ids
	testenv.Program(t, "newuidmap", "uidmap")
	u := testenv.Single(t)
	testenv.CheckLeaks(t)
	h := newHome(t, &u)
	h.ok(t, "run", "--name", "first", "small:1", "sh", "-c", "ln -s to /link; chown -h 33:44 /link")
	usermod := func(what string) {
		out, err := exec.Command("usermod", what+"-subuids", "2000000-2065535", what+"-subgids", "2000000-2065535", u.Name).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	usermod("--add")
	other := *h
	other.root = filepath.Join(u.Dir(t), "other")
	other.ok(t, "import", testenv.Busybox(t).Tar, "small:1")
	require.Equal(t, 2, strings.Count(other.ok(t, "run", "--rm", "small:1", "cat", "/proc/self/uid_map"), "\n"))
	require.Contains(t, other.ok(t, "doctor"), "a range is granted")

	require.Contains(t, h.ok(t, "doctor"), "was begun with a single id")
	require.Equal(t, 1, strings.Count(h.ok(t, "run", "--rm", "small:1", "cat", "/proc/self/uid_map"), "\n"))
	out, code := h.run(t, "run", "--rm", "--userns", "auto", "small:1", "true")
	require.Equal(t, 125, code)
	require.Contains(t, out, "was begun with a single id")
	h.ok(t, "commit", "first", "second:1")
	require.Equal(t, "33:44 to\n", h.ok(t, "run", "--rm", "second:1", "sh", "-c", "echo $(stat -c %u:%g /link) $(readlink /link)"))
	h.ok(t, "rmi", "second:1")
	h.ok(t, "start", "-a", "first") // ln fails, as the link is there

	usermod("--del")
	other.ok(t, "run", "--name", "real", "small:1", "ln", "-s", "to", "/link")
	id := strings.TrimSpace(other.ok(t, "ps", "-a", "-q", "--no-trunc"))
	target, err := os.Readlink(filepath.Join(other.root, "containers", id, "upper/link"))
	require.NoError(t, err)
	require.Equal(t, "to", target)
	other.ok(t, "rm", "real")
}
