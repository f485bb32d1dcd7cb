package runner

import (
	"debug/elf"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func withInit(cfg Config) Config {
	cfg.Init = true
	return cfg
}

func TestTinyFile(t *testing.T) {
	file, err := openTiny("/bin/true")
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	_, err = file.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, unix.EPERM, "it is sealed")
	info, err := file.Stat()
	require.NoError(t, err)
	require.LessOrEqual(t, info.Size(), int64(4096), "one page")
	f, err := elf.NewFile(file)
	require.NoError(t, err)
	require.Len(t, f.Progs, 2)
	require.Equal(t, elf.PF_R|elf.PF_X, f.Progs[0].Flags)
	require.Equal(t, elf.PT_GNU_STACK, f.Progs[1].Type)
}

// Process 1 is ours, the program its child, and its exit code the container's.
func TestInit(t *testing.T) {
	needRoot(t)
	root := busyboxRoot(t)
	const script = `cat /proc/1/comm; tr '\0' ' ' < /proc/1/cmdline; echo; echo $PPID; for p in 1 $$; do (cd /proc/$p/fd && ls); done; exit 42`
	text, code := output(t, withInit(sh(root, script)))
	require.Equal(t, 42, code)
	require.Equal(t, "varve-init\nvarve-init -- sh -c "+script+" \n1\n0\n1\n2\n0\n1\n2\n", text)
	_, code = output(t, withInit(sh(root, "kill -9 $$")))
	require.Equal(t, 137, code)
	_, code = output(t, withInit(sh(root, "kill -TERM $$; sleep 10")))
	require.Equal(t, 143, code)
	// A program that is there and can not be run, and one that is not there.
	require.NoError(t, os.WriteFile(root+"/bad", []byte("no program"), 0o755))
	_, err := Start(withInit(Config{Root: root, Args: []string{"/bad"}}))
	require.ErrorIs(t, err, ErrNotExecutable)
	require.EqualError(t, err, "exec /bad: exec format error")
	_, err = Start(withInit(Config{Root: root, Args: []string{"absent"}}))
	require.ErrorIs(t, err, ErrNotFound)
	// Its walls are the program's.
	cfg := withInit(sh(root, "grep -E '^(CapEff|Seccomp|Threads|Uid):' /proc/1/status"))
	text, _ = output(t, cfg)
	require.Contains(t, text, "CapEff:\t00000000a80425fb\n")
	require.Contains(t, text, "Threads:\t1\n")
	require.Contains(t, text, "Seccomp:\t2\n")
}

// What is orphaned is waited for, and does not keep the container.
func TestInitReaps(t *testing.T) {
	needRoot(t)
	root := busyboxRoot(t)
	// The program becomes one that waits for nobody; who counts waits a little for none.
	script := `(for i in 1 2 3 4 5; do (sleep 0.0$i &); done; for try in $(seq TRIES); do
n=$(cat /proc/[0-9]*/status 2>/dev/null | grep -c '^State:.Z'); test $n = 0 && test $try -gt 4 && break; sleep 0.05; done; echo zombies $n) &
exec sleep 2`
	text, code := output(t, withInit(sh(root, strings.Replace(script, "TRIES", "100", 1))))
	require.Zero(t, code)
	require.Equal(t, "zombies 0\n", text)
	text, _ = output(t, sh(root, strings.Replace(script, "TRIES", "6", 1)))
	require.NotEqual(t, "zombies 0\n", text, "without it they stay")
}

// Signals go on to the program, also those that process 1 itself would not get.
func TestInitForwardsSignals(t *testing.T) {
	needRoot(t)
	root := busyboxRoot(t)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGUSR2, unix.SIGINT} {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		cfg := withInit(sh(root, fmt.Sprintf("trap 'echo got; exit 7' %d; echo ready; while :; do sleep 0.01; done", sig)))
		cfg.Stdout = w
		p, err := Start(cfg)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		buf := make([]byte, 6)
		_, err = r.Read(buf)
		require.NoError(t, err)
		require.NoError(t, p.Signal(sig))
		code, err := p.Wait()
		require.NoError(t, err)
		require.Equal(t, 7, code, sig)
		require.NoError(t, r.Close())
	}
	// A program without a handler ends, which process 1 would not.
	p, err := Start(withInit(Config{Root: root, Args: []string{"sleep", "1000"}}))
	require.NoError(t, err)
	require.NoError(t, p.Signal(unix.SIGTERM))
	code, err := p.Wait()
	require.NoError(t, err)
	require.Equal(t, 143, code)
}

// The terminal's keys are the program's.
func TestInitGivesTheTerminalAway(t *testing.T) {
	needRoot(t)
	cfg := withInit(sh(busyboxRoot(t), "trap 'echo got; exit 9' INT; echo ready; while :; do sleep 0.01; done"))
	cfg.Terminal = true
	p, err := Start(cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Console().Close()) }()
	text := ""
	require.Eventually(t, func() bool {
		buf := make([]byte, 64)
		n, _ := p.Console().Read(buf)
		text += string(buf[:n])
		return strings.Contains(text, "ready")
	}, time.Minute, time.Millisecond)
	_, err = p.Console().Write([]byte{3})
	require.NoError(t, err)
	code, err := p.Wait()
	require.NoError(t, err)
	require.Equal(t, 9, code)
}
