package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/testenv"
)

// A home is a varve of some user, with a store of its own and the image small:1.
type home struct {
	bin, root string
	user      *testenv.User
}

// eachUser runs the test as root and as ordinary users.
func eachUser(t *testing.T, test func(*testing.T, *home)) {
	testenv.FUSE(t)
	t.Run("root", func(t *testing.T) {
		testenv.Root(t)
		testenv.CheckLeaks(t)
		test(t, newHome(t, nil))
	})
	t.Run("ranged", func(t *testing.T) {
		u := testenv.Ranged(t)
		testenv.CheckLeaks(t)
		test(t, newHome(t, &u))
	})
	t.Run("single", func(t *testing.T) {
		u := testenv.Single(t)
		testenv.CheckLeaks(t)
		test(t, newHome(t, &u))
	})
}

func newHome(t *testing.T, u *testenv.User) *home {
	h := &home{bin: testenv.Varve(t), user: u}
	if u == nil {
		h.root = filepath.Join(testenv.Dir(t), "store")
	} else {
		h.bin = u.Give(t, h.bin)
		h.root = filepath.Join(u.Dir(t), "store")
	}
	tar := testenv.Busybox(t).Tar
	h.ok(t, "import", tar, "small:1")
	t.Cleanup(func() {
		for _, id := range strings.Fields(h.ok(t, "ps", "-a", "-q", "--no-trunc")) {
			h.ok(t, "rm", "-f", id)
		}
		h.ok(t, "rmi", "-f", "small:1")
	})
	return h
}

func (h *home) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"--root", h.root}, args...)
	if h.user == nil {
		return exec.CommandContext(ctx, h.bin, args...)
	}
	return h.user.Command(ctx, h.bin, args...)
}

// ok runs a verb that has to succeed and returns what it prints.
func (h *home) ok(t *testing.T, args ...string) string {
	t.Helper()
	out, code := h.run(t, args...)
	require.Zero(t, code, "varve %v: %s", args, out)
	return out
}

func (h *home) run(t *testing.T, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	if t.Context().Err() != nil { // in a clean-up
		cancel()
		ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
	}
	defer cancel()
	out, err := h.command(ctx, args...).CombinedOutput()
	if exit, is := err.(*exec.ExitError); is { //nolint:errorlint // of CombinedOutput itself
		return string(out), exit.ExitCode()
	}
	require.NoError(t, err)
	return string(out), 0
}

// start runs a container in the background and returns when it says "ready".
func (h *home) start(t *testing.T, args ...string) (cmd *exec.Cmd, stdout io.Reader) {
	t.Helper()
	cmd = h.command(t.Context(), append([]string{"run"}, args...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line := make([]byte, len("ready\n"))
	_, err = io.ReadFull(stdout, line)
	require.NoError(t, err)
	require.Equal(t, "ready\n", string(line))
	return cmd, stdout
}

// stateFile is the state.json of the only container.
func (h *home) stateFile(t *testing.T) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(h.root, "containers/*/state.json"))
	require.NoError(t, err)
	require.Len(t, list, 1)
	return list[0]
}

// state reads it.
func (h *home) state(t *testing.T) container.State {
	t.Helper()
	raw, err := os.ReadFile(h.stateFile(t))
	require.NoError(t, err)
	var s container.State
	require.NoError(t, json.Unmarshal(raw, &s))
	return s
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	if err == nil {
		return 0
	}
	require.ErrorAs(t, err, &exit)
	return exit.ExitCode()
}

func TestKilledSupervisor(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		cmd, out := h.start(t, "--name", "first", "small:1", "sh", "-c",
			"sleep 1000 & echo kept > /kept; echo more > /grows; echo ready; while :; do echo more >> /grows; done")
		h.isUp(t)
		s := h.state(t)
		require.NoError(t, unix.Kill(s.Supervisor.Pid, unix.SIGKILL))
		_, err := io.ReadAll(out)
		require.NoError(t, err, "every process that has stdout open is gone")
		require.Equal(t, 137, exitCode(t, cmd.Wait()))
		require.NoFileExists(t, fmt.Sprintf("/proc/%d/root/etc", s.Init.Pid))

		require.Equal(t, "first Exited (137) exited\n", h.ok(t, "ps", "-a", "--format", "{{.Names}} {{.Status}} {{.State}}"))
		require.Empty(t, h.ok(t, "ps", "-q"))
		kept, err := filepath.Glob(filepath.Join(h.root, "containers/*/upper/kept"))
		require.NoError(t, err)
		require.Len(t, kept, 1)
		text, err := os.ReadFile(kept[0])
		require.NoError(t, err)
		require.Equal(t, "kept\n", string(text))
		require.Equal(t, "A /grows\nA /kept\n", h.ok(t, "diff", "first"))
		require.Equal(t, "first\n", h.ok(t, "rm", "first"))
		require.Empty(t, h.ok(t, "ps", "-a", "-q"))
	})
}

func TestRemoveARunningContainer(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		cmd, _ := h.start(t, "--name", "first", "small:1", "sh", "-c", "echo ready; sleep 1000")
		out, code := h.run(t, "rm", "first")
		require.Equal(t, 1, code)
		require.Contains(t, out, "You cannot remove a running container")
		out, code = h.run(t, "rmi", "-f", "small:1")
		require.Equal(t, 1, code)
		require.Contains(t, out, "is being used by running container")
		require.Equal(t, "first\n", h.ok(t, "rm", "-f", "first"))
		require.Equal(t, 137, exitCode(t, cmd.Wait()))
		require.Empty(t, h.ok(t, "ps", "-a", "-q"))
	})
}

// TestManyArguments: a record that is too large for a small change of the store is made
// in a large one.
func TestManyArguments(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		long := strings.Repeat("x", 100_000)
		require.Equal(t, "100000\n", h.ok(t, "run", "--name", "first", "small:1", "sh", "-c", "echo ${#0}", long))
		require.Contains(t, h.ok(t, "ps", "-a", "--no-trunc"), long)
		h.ok(t, "rm", "first")
	})
}

// TestDiffOfARunningContainer: files come and go while they are compared.
func TestDiffOfARunningContainer(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		cmd, _ := h.start(t, "--rm", "--name", "first", "small:1", "sh", "-c",
			"echo ready; echo kept > /kept; while :; do for i in 1 2 3 4 5; do mkdir -p /w/$i/e; echo x > /w/$i/f; done; rm -rf /w; done")
		for range 30 {
			out, code := h.run(t, "diff", "first")
			require.Zero(t, code, out)
		}
		require.Contains(t, h.ok(t, "diff", "first"), "A /kept\n")
		h.ok(t, "rm", "-f", "first")
		require.Equal(t, 137, exitCode(t, cmd.Wait()))
	})
}

func TestSignalsReachTheProgram(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		for sig, code := range map[unix.Signal]int{unix.SIGTERM: 11, unix.SIGINT: 12, unix.SIGHUP: 13, unix.SIGUSR1: 14} {
			cmd, _ := h.start(t, "--rm", "small:1", "sh", "-c",
				"trap 'exit 11' TERM; trap 'exit 12' INT; trap 'exit 13' HUP; trap 'exit 14' USR1; echo ready; while :; do sleep 0.05; done")
			require.NoError(t, cmd.Process.Signal(sig))
			require.Equal(t, code, exitCode(t, cmd.Wait()), "%v", sig)
		}
		require.Empty(t, h.ok(t, "ps", "-a", "-q"))
	})
}

func TestPipesLoseNothing(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		data := bytes.Repeat([]byte("binary\x00\xff\r\n"), 300_000)
		cmd := h.command(t.Context(), "run", "--rm", "-i", "small:1", "cat")
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.Output()
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, out), "%d of %d bytes", len(out), len(data))
	})
}

// TestTerminal sits at a terminal of its own in front of varve run -it.
func TestTerminal(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		console, tty := openTerminal(t)
		require.NoError(t, unix.IoctlSetWinsize(int(console.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}))
		before, err := term.GetState(int(tty.Fd()))
		require.NoError(t, err)
		cmd := h.command(t.Context(), "run", "--rm", "-it", "small:1", "sh")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		require.NoError(t, cmd.Start())
		screen := &screen{}
		go func() { _, _ = io.Copy(screen, console) }() // ends with the terminal
		seen := func(text string) {
			t.Helper()
			testenv.Eventually(t, text, func() bool { return strings.Contains(screen.String(), text) })
		}
		typed := func(text string) {
			t.Helper()
			_, err := console.WriteString(text)
			require.NoError(t, err)
		}
		typed("stty size; tty; echo a''b\n")
		seen("33 77")
		seen("/dev/pts/0")
		seen("ab")
		typed("sleep 1000\n")
		time.Sleep(300 * time.Millisecond)
		typed("\x03") // Ctrl-C ends sleep, not the shell
		require.NoError(t, unix.IoctlSetWinsize(int(console.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 44, Col: 88}))
		require.NoError(t, cmd.Process.Signal(unix.SIGWINCH))
		time.Sleep(100 * time.Millisecond)
		typed("stty size\n")
		seen("44 88")
		typed("exit 9\n")
		require.Equal(t, 9, exitCode(t, cmd.Wait()), "%s", screen)
		after, err := term.GetState(int(tty.Fd()))
		require.NoError(t, err)
		require.Equal(t, before, after, "the terminal is as it was")
	})
}

// screen is what was printed so far.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// openTerminal makes a terminal: the side of a person, and that of programs.
func openTerminal(t *testing.T) (console, tty *os.File) {
	t.Helper()
	console, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, console.Close()) })
	require.NoError(t, unix.IoctlSetPointerInt(int(console.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(console.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tty.Close()) })
	return console, tty
}

func TestManyAtOnce(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		const crowd = 12
		var wg sync.WaitGroup
		errs := make([]error, crowd)
		for i := range crowd {
			wg.Go(func() {
				out, err := h.command(t.Context(), "run", "--name", fmt.Sprintf("c-%d", i), "small:1", "sh", "-c", fmt.Sprintf("echo %d > /n", i)).CombinedOutput()
				if err != nil {
					errs[i] = fmt.Errorf("%w: %s", err, out)
				}
			})
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
		require.Len(t, strings.Fields(h.ok(t, "ps", "-a", "-q")), crowd)
		require.Equal(t, "A /n\n", h.ok(t, "diff", "c-7"))
	})
}

// isUp waits until a container is said to run: a program may speak before its
// supervisor has noted that it does.
func (h *home) isUp(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(h.ok(t, "ps"), "Up ") }, time.Minute, 10*time.Millisecond)
}

// TestKilledForeground: the container lives on, as docker's does, and can be removed.
func TestKilledForeground(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		cmd, _ := h.start(t, "--name", "first", "small:1", "sh", "-c", "echo ready; sleep 1000")
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		h.isUp(t)
		require.Equal(t, "first\n", h.ok(t, "rm", "-f", "first"))
		require.Empty(t, h.ok(t, "ps", "-a", "-q"))
	})
}
