package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/varvefs/varve/internal/testenv"
)

// sit runs a verb at a terminal of its own, and returns what is on the screen and how
// to type.
func (h *home) sit(t *testing.T, args ...string) (cmd *exec.Cmd, seen func(string), typed func(string), state func() *term.State) {
	t.Helper()
	console, tty := openTerminal(t)
	cmd = h.command(t.Context(), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	require.NoError(t, cmd.Start())
	screen := &screen{}
	go func() { _, _ = io.Copy(screen, console) }() // ends with the terminal
	seen = func(text string) {
		t.Helper()
		testenv.Eventually(t, text, func() bool { return strings.Contains(screen.String(), text) })
	}
	typed = func(text string) {
		t.Helper()
		_, err := console.WriteString(text)
		require.NoError(t, err)
	}
	state = func() *term.State {
		s, err := term.GetState(int(tty.Fd()))
		require.NoError(t, err)
		return s
	}
	return cmd, seen, typed, state
}

// TestLeaveAndComeBack leaves a shell with the detach keys, and attaches to it again.
func TestLeaveAndComeBack(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		cmd, seen, typed, state := h.sit(t, "run", "--name", "shell", "-it", "small:1", "sh")
		typed("X=kept; echo re''ady\n")
		seen("ready")
		typed("\x10\x11")
		require.Equal(t, 0, exitCode(t, cmd.Wait()))
		left := state()
		h.isUp(t)

		cmd, seen, typed, state = h.sit(t, "attach", "shell")
		typed("echo $X''again\n")
		seen("keptagain")
		typed("exit 9\n")
		require.Equal(t, 9, exitCode(t, cmd.Wait()))
		require.Equal(t, left, state(), "both terminals are as terminals are at first")
		require.Contains(t, h.ok(t, "logs", "shell"), "keptagain")
	})
}

// TestKilledAtTheTerminal: who is killed can not put his terminal back; the supervisor
// does.
func TestKilledAtTheTerminal(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		for _, args := range [][]string{{"run", "--name", "shell", "-it", "small:1", "sh"}, {"attach", "shell"}, {"exec", "-it", "shell", "sh"}} {
			_, tty := openTerminal(t)
			before, err := term.GetState(int(tty.Fd()))
			require.NoError(t, err)
			cmd, seen, typed, state := h.sit(t, args...)
			typed("echo re''ady\n")
			seen("ready")
			require.NotEqual(t, before, state(), "%v: the terminal is raw", args)
			require.NoError(t, cmd.Process.Kill())
			require.Error(t, cmd.Wait())
			testenv.Eventually(t, "the terminal is as it was", func() bool { return *before == *state() })
			h.isUp(t)
		}
		require.Equal(t, "shell\n", h.ok(t, "rm", "-f", "shell"))
	})
}

// TestManyExecs runs a crowd of programs in one container at once.
func TestManyExecs(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		h.ok(t, "run", "-d", "--name", "up", "small:1", "sleep", "1000")
		const crowd = 100
		var wg sync.WaitGroup
		errs := make([]error, crowd)
		for i := range crowd {
			wg.Go(func() {
				out, err := h.command(t.Context(), "exec", "up", "echo", "hello").CombinedOutput()
				if err == nil && string(out) != "hello\n" {
					err = io.ErrUnexpectedEOF
				}
				errs[i] = err
			})
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
		h.ok(t, "rm", "-f", "up")
	})
}

// TestExecLosesNothing sends more than any pipe holds through a program, from a pipe and
// from a file, to a pipe that is read late.
func TestExecLosesNothing(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		h.ok(t, "run", "-d", "--name", "up", "small:1", "sleep", "1000")
		data := bytes.Repeat([]byte("binary\x00\xff\r\n"), 300_000)
		name := filepath.Join(t.TempDir(), "data")
		require.NoError(t, os.WriteFile(name, data, 0o600))
		file, err := os.Open(name)
		require.NoError(t, err)
		defer func() { require.NoError(t, file.Close()) }()
		for _, stdin := range []io.Reader{bytes.NewReader(data), file} {
			cmd := h.command(t.Context(), "exec", "-i", "up", "cat")
			cmd.Stdin, cmd.Stderr = stdin, os.Stderr
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			time.Sleep(200 * time.Millisecond)
			out, err := io.ReadAll(stdout)
			require.NoError(t, err)
			require.NoError(t, cmd.Wait())
			require.True(t, bytes.Equal(data, out), "%d of %d bytes", len(out), len(data))
		}
		h.ok(t, "rm", "-f", "up")
	})
}

// TestKilledProcessOne: the container ends with its first process, and ps tells it.
func TestKilledProcessOne(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		h.ok(t, "run", "-d", "--name", "up", "small:1", "sh", "-c", "echo kept > /kept; sleep 1000")
		h.ok(t, "exec", "-d", "up", "sleep", "1000")
		testenv.Eventually(t, "the file", func() bool { return strings.Contains(h.ok(t, "diff", "up"), "/kept") })
		require.NoError(t, unix.Kill(h.state(t).Init.Pid, unix.SIGKILL))
		require.Equal(t, "137\n", h.ok(t, "wait", "up"))
		require.Contains(t, h.ok(t, "ps", "-a"), "Exited (137)")
		require.Equal(t, "A /kept\n", h.ok(t, "diff", "up"))
		require.Equal(t, "up\n", h.ok(t, "rm", "up"))
	})
}
