package unionfs

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/whiteout"
)

// serveEnv makes the test binary serve the view that its value describes.
const serveEnv = "VARVE_TEST_SERVE"

type serveOrder struct {
	Mnt string
	Opt Options
}

func TestMain(m *testing.M) {
	if order := os.Getenv(serveEnv); order != "" {
		os.Exit(serveForTest(order))
	}
	if path := os.Getenv(lockEnv); path != "" {
		lockForTest(path)
		return
	}
	if root := os.Getenv(growEnv); root != "" {
		if err := growForTest(root, os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "client:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(clientEnv) != "" {
		if err := clientForTest(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "client:", err)
			os.Exit(1)
		}
		return
	}
	if code, ran := testenv.InNamespace(); ran {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

func serveForTest(text string) int {
	var order serveOrder
	err := json.Unmarshal([]byte(text), &order)
	if err == nil {
		var s *Server
		if s, err = Mount(order.Mnt, order.Opt); err == nil {
			fmt.Println("ready")
			s.Wait()
			return 0
		}
	}
	fmt.Println(err)
	return 1
}

// served is a view served by a process of its own, which can be killed.
type served struct {
	cmd *exec.Cmd
	mnt string
}

func serve(t *testing.T, mnt string, opt Options) *served {
	t.Helper()
	order, err := json.Marshal(serveOrder{mnt, opt})
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"="+string(order))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	return &served{cmd, mnt}
}

// kill ends the process without a warning and takes the dead mount away.
func (s *served) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, s.cmd.Process.Kill())
	require.Error(t, s.cmd.Wait())
	require.NoError(t, unix.Unmount(s.mnt, unix.MNT_DETACH))
}

// TestKilled kills the server at a random moment of a stream of operations, time
// after time. What was done before must be there, what was under way done or not
// done, and the lower layers as they were.
func TestKilled(t *testing.T) {
	for round := range 40 {
		dialect := []whiteout.Dialect{whiteout.Overlay, whiteout.OCI}[round%2]
		t.Run(fmt.Sprintf("%02d %v", round, dialect), func(t *testing.T) { killedOnce(t, dialect) })
	}
}

func killedOnce(t *testing.T, dialect whiteout.Dialect) {
	w := newWorld(t, 2)
	for i := range 8 {
		mkdir(t, w.lowers[i%2], fmt.Sprintf("d%d/sub", i))
		for k := range 4 {
			p := filepath.Join(w.lowers[i%2], fmt.Sprintf("d%d/f%d", i, k))
			require.NoError(t, os.WriteFile(p, []byte(strings.Repeat("lower ", 10000*k)), 0o644))
		}
	}
	before := hashTrees(t, w.lowers)
	opt := w.options()
	opt.Whiteout = dialect
	s := serve(t, w.mnt, opt)
	plain := filepath.Join(filepath.Dir(w.mnt), "plain")
	copyTree(t, w.mnt, plain)

	time.AfterFunc(time.Duration(rand.IntN(60))*time.Millisecond, func() { _ = s.cmd.Process.Kill() })
	pending := func() step {
		defer func() {
			require.Error(t, s.cmd.Wait())
			require.NoError(t, unix.Unmount(w.mnt, unix.MNT_DETACH))
		}()
		return operateUntilDead(t, w.mnt, plain)
	}()

	w.mount(t, opt)
	got := treeOf(t, w.mnt)
	if undone := treeOf(t, plain); !equalTrees(got, undone) {
		require.NoError(t, pending.do(plain), pending.what)
		require.Equal(t, treeOf(t, plain), got, "neither before nor after %s", pending.what)
	}
	require.Equal(t, before, hashTrees(t, w.lowers), "a lower layer was changed")
	left, err := os.ReadDir(filepath.Join(w.work, "work"))
	require.NoError(t, err)
	require.Empty(t, left, "the work directory was not swept")
}

func equalTrees(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for p, line := range a {
		if b[p] != line {
			return false
		}
	}
	return true
}

// step is one operation that is whole or absent.
type step struct {
	what string
	do   func(root string) error
}

// operateUntilDead does random steps on both sides until the view answers no
// more, and returns the step that got no answer.
func operateUntilDead(t *testing.T, mnt, plain string) step {
	t.Helper()
	for {
		s := randomStep()
		err := s.do(mnt)
		switch errnoOf(err) {
		case "ENOTCONN", "ECONNABORTED", "ECANCELED": // the last over io_uring
			return s
		case "EIO": // it died while it was reading the request
			dead := unix.Statfs(mnt, new(unix.Statfs_t))
			require.Contains(t, []string{"ENOTCONN", "ECONNABORTED"}, errnoOf(dead), "%s: EIO of a living server", s.what)
			return s
		}
		require.Equal(t, errnoOf(s.do(plain)), errnoOf(err), s.what)
	}
}

func randomStep() step {
	path := func() string { return fmt.Sprintf("d%d/f%d", rand.IntN(8), rand.IntN(6)) }
	a, b := path(), path()
	dir := fmt.Sprintf("d%d/sub", rand.IntN(8))
	switch rand.IntN(7) {
	case 0:
		return step{"unlink " + a, func(root string) error { return unix.Unlink(filepath.Join(root, a)) }}
	case 1:
		return step{"rename " + a + " " + b, func(root string) error {
			return unix.Rename(filepath.Join(root, a), filepath.Join(root, b))
		}}
	case 2:
		return step{"chmod " + a, func(root string) error { return unix.Chmod(filepath.Join(root, a), 0o601) }}
	case 3:
		return step{"symlink " + a, func(root string) error { return unix.Symlink("x", filepath.Join(root, a)) }}
	case 4:
		return step{"rmdir " + dir, func(root string) error { return unix.Rmdir(filepath.Join(root, dir)) }}
	case 5:
		return step{"mkdir " + dir, func(root string) error { return unix.Mkdir(filepath.Join(root, dir), 0o755) }}
	}
	return step{"patch " + a, func(root string) error {
		f, err := os.OpenFile(filepath.Join(root, a), os.O_WRONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte("patched"), 3)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		return err
	}}
}

// TestDeadServer: who uses a view whose server was killed gets an error, at once.
func TestDeadServer(t *testing.T) {
	w := newWorld(t, 1)
	require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], "file"), []byte("x"), 0o644))
	s := serve(t, w.mnt, w.options())
	f, err := os.Open(filepath.Join(w.mnt, "file"))
	require.NoError(t, err)
	defer f.Close()
	s.kill(t)
	_, err = f.Stat()
	var pathErr *fs.PathError
	if err != nil { // the attributes may be cached
		require.ErrorAs(t, err, &pathErr)
	}
	_, err = f.ReadAt(make([]byte, 1), 0)
	// What was asked while the connection went, which takes a moment over io_uring, is aborted.
	require.Contains(t, []string{"ENOTCONN", "ECONNABORTED", "ECANCELED"}, errnoOf(err))
}
