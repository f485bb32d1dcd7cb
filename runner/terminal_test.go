package runner

import (
	"bufio"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// terminal is the user's side of a container with one.
type terminal struct {
	*Process
	t     *testing.T
	lines *bufio.Scanner
}

func startTerminal(t *testing.T, script string) *terminal {
	needRoot(t)
	cfg := sh(busyboxRoot(t), script)
	cfg.Terminal, cfg.Columns, cfg.Rows = true, 81, 25
	p, err := Start(cfg)
	require.NoError(t, err)
	require.NoError(t, p.Console().SetDeadline(time.Now().Add(10*time.Second)))
	return &terminal{p, t, bufio.NewScanner(p.Console())}
}

func (c *terminal) requireLine(want string) {
	c.t.Helper()
	require.True(c.t, c.lines.Scan(), "wanted %q: %v", want, c.lines.Err())
	require.Equal(c.t, want, strings.TrimRight(c.lines.Text(), "\r"))
}

func (c *terminal) typed(text string) {
	c.t.Helper()
	_, err := c.Console().WriteString(text)
	require.NoError(c.t, err)
}

// requireEnd checks that the program has printed nothing more, and its code.
func (c *terminal) requireEnd(code int) {
	c.t.Helper()
	require.False(c.t, c.lines.Scan(), c.lines.Text())
	require.True(c.t, errors.Is(c.lines.Err(), unix.EIO), "%v", c.lines.Err())
	requireCode(c.t, c.Process, code)
	require.NoError(c.t, c.Console().Close())
}

func TestTerminal(t *testing.T) {
	c := startTerminal(t, `tty; stty size; stat -c %t:%T /dev/console
[ "$(stat -L -c %d:%i /proc/self/fd/0)" = "$(stat -c %d:%i /dev/console)" ] && echo same
ps -o pid,tty,args | grep -c 136,0; cat < /dev/tty; exit 4`)
	c.requireLine("/dev/pts/0")
	c.requireLine("25 81")
	c.requireLine("88:0")
	c.requireLine("same")
	require.True(t, c.lines.Scan())
	c.typed("hello\n\x04")
	c.requireLine("hello") // echoed
	c.requireLine("hello") // by cat
	c.requireEnd(4)
}

func TestTerminalResize(t *testing.T) {
	c := startTerminal(t, "trap 'stty size; exit 6' WINCH; echo ready; while :; do sleep 0.01; done")
	c.requireLine("ready")
	require.NoError(t, c.Resize(132, 50))
	c.requireLine("50 132")
	c.requireEnd(6)
}

func TestTerminalInterrupt(t *testing.T) {
	c := startTerminal(t, "trap 'echo got it; exit 9' INT; echo ready; while :; do sleep 0.01; done")
	c.requireLine("ready")
	c.typed("\x03")
	c.requireLine("^Cgot it")
	c.requireEnd(9)
}

func TestWithoutTerminalThereIsNone(t *testing.T) {
	needRoot(t)
	p := startSleeping(t, Config{})
	require.Nil(t, p.Console())
	require.Error(t, p.Resize(1, 1))
	sid, err := unix.Getsid(p.Pid())
	require.NoError(t, err)
	require.Equal(t, p.Pid(), sid, "a session of its own, so Ctrl-C outside does not reach it")
	text, _ := output(t, sh(busyboxRoot(t), "tty; cat < /dev/tty; ls /dev/console"))
	require.Contains(t, text, "not a tty")
	require.Contains(t, text, "can't open /dev/tty")
	require.Contains(t, text, "/dev/console: No such file")
}
