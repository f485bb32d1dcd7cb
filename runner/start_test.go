package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestProgramIsProcessOne(t *testing.T) {
	needRoot(t)
	text, code := output(t, sh(busyboxRoot(t), "echo $$; exec cat /proc/1/comm"))
	require.Zero(t, code)
	require.Equal(t, "1\ncat\n", text)
}

func TestExitCodes(t *testing.T) {
	needRoot(t)
	root := busyboxRoot(t)
	// A process 1 has no default actions: only from outside is it killed.
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "exit 255": 255,
		"sh -c 'kill -TERM $$'; exit $?": 143} {
		_, code := output(t, sh(root, script))
		require.Equal(t, want, code, script)
	}
	p, err := Start(sh(root, "trap 'exit 3' TERM; while :; do sleep 0.01; done"))
	require.NoError(t, err)
	time.Sleep(100 * time.Millisecond) // for the shell to set its trap
	require.NoError(t, p.Signal(unix.SIGTERM))
	requireCode(t, p, 3)
	p, err = Start(sh(root, "sleep 1000"))
	require.NoError(t, err)
	require.NoError(t, p.Signal(unix.SIGKILL))
	requireCode(t, p, 137)
	requireCode(t, p, 137) // asked again
	require.ErrorIs(t, p.Signal(unix.SIGKILL), os.ErrProcessDone)
}

func requireCode(t *testing.T, p *Process, want int) {
	t.Helper()
	code, err := p.Wait()
	require.NoError(t, err)
	require.Equal(t, want, code)
}

func TestProgramsThatCanNotRun(t *testing.T) {
	needRoot(t)
	root := busyboxRoot(t)
	write := func(name, text string, mode os.FileMode) {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), mode))
	}
	write("plain", "x", 0o644)
	write("garbage", "\x7fELF but not really", 0o755)
	write("orphan", "#!/no/such/interpreter\n", 0o755)
	write("bin/hidden", "x", 0o644)
	for _, c := range []struct {
		program, says string
		kind          error
	}{
		{"foo", `exec: "foo": executable file not found in $PATH`, ErrNotFound},
		{"hidden", `exec: "hidden": executable file not found in $PATH`, ErrNotFound},
		{"/nope", `exec: "/nope": stat /nope: no such file or directory`, ErrNotFound},
		{"/plain/x", `exec: "/plain/x": stat /plain/x: not a directory`, ErrNotFound},
		{"/plain", `exec: "/plain": permission denied`, ErrNotExecutable},
		{"/etc", `exec: "/etc": is a directory`, ErrNotExecutable},
		{"/garbage", `exec /garbage: exec format error`, ErrNotExecutable},
		{"/orphan", `exec /orphan: no such file or directory (the interpreter that it names is missing)`, ErrNotFound},
	} {
		_, err := Start(Config{Root: root, Args: []string{c.program}, Env: []string{"PATH=/bin"}})
		require.EqualError(t, err, c.says)
		require.ErrorIs(t, err, c.kind)
		require.Equal(t, c.kind == ErrNotFound, errors.Is(err, ErrNotFound))
	}
}

func TestBadConfigIsRefused(t *testing.T) {
	for says, cfg := range map[string]Config{
		"no command specified":     {Root: "/x"},
		"is not an absolute path":  {Root: "x", Args: []string{"a"}},
		"needs to be an absolute":  {Root: "/x", Args: []string{"a"}, Cwd: "b"},
		"both paths need to be":    {Root: "/x", Args: []string{"a"}, Mounts: []Mount{{Source: "a", Target: "/b"}}},
		"destination can't be '/'": {Root: "/x", Args: []string{"a"}, Mounts: []Mount{{Source: "/a", Target: "/b/.."}}},
		"has a NUL byte in it":     {Root: "/x", Args: []string{"a\x00b"}},
	} {
		_, err := Start(cfg)
		require.ErrorContains(t, err, says)
		require.NotErrorIs(t, err, ErrNotFound)
	}
}

func TestMissingRoot(t *testing.T) {
	needRoot(t)
	_, err := Start(Config{Root: "/no/such/root", Args: []string{"a"}})
	require.EqualError(t, err, "open the root: open_tree /no/such/root: no such file or directory")
	require.NotErrorIs(t, err, ErrNotFound)
}

func TestOnlyThreeDescriptorsAreOpen(t *testing.T) {
	needRoot(t)
	// One that lacks O_CLOEXEC, as a careless library leaves it.
	leak, err := unix.Open("/etc", unix.O_RDONLY, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(leak)) }()
	p := startSleeping(t, Config{})
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Pid()))
	require.NoError(t, err)
	require.Len(t, entries, 3)
	for i, e := range entries {
		require.Equal(t, fmt.Sprint(i), e.Name())
	}
}

// startSleeping starts a container that does nothing until the test ends.
func startSleeping(t *testing.T, cfg Config) *Process {
	if cfg.Root == "" {
		cfg.Root = busyboxRoot(t)
	}
	cfg.Args, cfg.Env = []string{"sleep", "1000"}, []string{"PATH=/bin"}
	p, err := Start(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, p.Signal(unix.SIGKILL))
		requireCode(t, p, 137)
	})
	return p
}

func TestMissingStdioIsTheContainersNull(t *testing.T) {
	needRoot(t)
	p := startSleeping(t, Config{})
	var null unix.Stat_t
	require.NoError(t, unix.Stat(fmt.Sprintf("/proc/%d/root/dev/null", p.Pid()), &null))
	for fd := range 3 {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", p.Pid(), fd), &st))
		require.Equal(t, null.Dev, st.Dev)
		require.Equal(t, null.Ino, st.Ino)
	}
}

func TestStandardInput(t *testing.T) {
	needRoot(t)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cfg := sh(busyboxRoot(t), "wc -c")
	cfg.Stdin = r
	go func() {
		_, _ = w.Write(make([]byte, 300_000)) // counted on the other side
		_ = w.Close()
	}()
	text, code := output(t, cfg)
	require.NoError(t, r.Close())
	require.Zero(t, code)
	require.Equal(t, "300000\n", text)
}

func TestNamespacesAreItsOwn(t *testing.T) {
	needRoot(t)
	cfg := sh(busyboxRoot(t), "hostname; cd /proc/1/ns; for n in mnt pid uts ipc cgroup net; do readlink $n; done")
	cfg.Hostname = "box"
	before, err := os.Hostname()
	require.NoError(t, err)
	for _, network := range []Network{HostNetwork, NoNetwork} {
		cfg.Network = network
		text, _ := output(t, cfg)
		lines := strings.Fields(text)
		require.Equal(t, "box", lines[0])
		for _, ns := range lines[1:] {
			kind, _, _ := strings.Cut(ns, ":")
			host, err := os.Readlink("/proc/self/ns/" + kind)
			require.NoError(t, err)
			if kind == "net" && network == HostNetwork {
				require.Equal(t, host, ns)
			} else {
				require.NotEqual(t, host, ns)
			}
		}
	}
	after, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestNoNetworkHasLoopbackAlone(t *testing.T) {
	needRoot(t)
	cfg := sh(busyboxRoot(t), "ls /sys/class/net; ping -c 1 -w 2 127.0.0.1 >/dev/null && echo answers")
	cfg.Network = NoNetwork
	text, _ := output(t, cfg)
	require.Equal(t, "lo\nanswers\n", text)
}

// The bounding set alone makes them so: what the stage has before the program is held by
// TestStagesCanNotBeLookedInto, what it has inherited by TestInheritedCapabilities.
func TestCapabilitiesAreDockers(t *testing.T) {
	needRoot(t)
	cfg := sh(busyboxRoot(t), "grep -E '^(Cap|Groups)' /proc/self/status; mount -t tmpfs x /etc 2>&1; umask")
	text, _ := output(t, cfg)
	const all = "00000000a80425fb" // of docker 20 to 28: grep CapEff /proc/1/status
	for _, want := range []string{"CapInh:\t0000000000000000", "CapPrm:\t" + all, "CapEff:\t" + all,
		"CapBnd:\t" + all, "CapAmb:\t0000000000000000", "permission denied", "0022"} {
		require.Contains(t, text, want)
	}
	if ns, err := CurrentUserns(); err != nil || ns == nil || !ns.Single { // there the groups of the caller stay
		require.Contains(t, text, "Groups:\t0 \n")
	}
	cfg = sh(cfg.Root, "grep CapEff /proc/self/status")
	cfg.Capabilities = []int{unix.CAP_CHOWN, unix.CAP_CHECKPOINT_RESTORE}
	text, _ = output(t, cfg)
	require.Equal(t, "CapEff:\t0000010000000001\n", text)
}

func TestSignalsAreAtTheirDefaults(t *testing.T) {
	needRoot(t)
	text, _ := output(t, sh(busyboxRoot(t), "exec grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status"))
	require.Equal(t, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n", text)
}

func TestIgnoredSignalsAreNotInherited(t *testing.T) {
	needRoot(t)
	cfg := sh(busyboxRoot(t), "exec grep SigIgn /proc/self/status")
	text, said, code := play(t, 0, "nohup", &cfg)
	require.Zero(t, code, said)
	require.Equal(t, "SigIgn:\t0000000000000000\n", text)
}

func TestWorkingDirectory(t *testing.T) {
	needRoot(t)
	root := busyboxRoot(t)
	require.NoError(t, os.Symlink("/etc", filepath.Join(root, "link")))
	require.NoError(t, os.Symlink("../../../../new", filepath.Join(root, "up")))
	require.NoError(t, os.Mkdir(filepath.Join(root, "new"), 0o755))
	for dir, want := range map[string]string{"": "/", "/bin": "/bin", "/a/b/c": "/a/b/c", "/link": "/etc",
		"/up/x": "/new/x", "/../../tmp": "/tmp"} {
		cfg := sh(root, "/bin/busybox readlink /proc/self/cwd; stat -c '%a %u' .")
		cfg.Cwd = dir
		text, code := output(t, cfg)
		require.Zero(t, code, text)
		require.Contains(t, text, want+"\n755 0\n", dir)
	}
	cfg := sh(root, "true")
	cfg.Cwd = "/bin/busybox"
	_, err := Start(cfg)
	require.EqualError(t, err, `the working directory "/bin/busybox" is not a directory`)
}

func TestStartTime(t *testing.T) {
	needRoot(t)
	p, err := Start(sh(busyboxRoot(t), "sleep 1000"))
	require.NoError(t, err)
	ticks, err := ProcessStartTime(p.Pid())
	require.NoError(t, err)
	require.Equal(t, p.StartTime(), ticks)
	own, err := ProcessStartTime(os.Getpid())
	require.NoError(t, err)
	require.GreaterOrEqual(t, ticks, own)
	require.NoError(t, p.Signal(unix.SIGKILL))
	requireCode(t, p, 137)
	_, err = ProcessStartTime(p.Pid())
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, fmt.Sprint(p.Pid()))
}

func TestManyContainersAtOnce(t *testing.T) {
	needRoot(t)
	root := busyboxRoot(t)
	results := make(chan error, 20)
	for i := range 20 {
		go func() {
			_, code, err := runOutput(sh(root, fmt.Sprintf("exit %d", i)))
			if err == nil && code != i {
				err = fmt.Errorf("exit code %d instead of %d", code, i)
			}
			results <- err
		}()
	}
	for range 20 {
		require.NoError(t, <-results)
	}
}

func BenchmarkStart(b *testing.B) {
	needRoot(b)
	cfg := Config{Root: busyboxRoot(b), Args: []string{"true"}, Env: []string{"PATH=/bin"}}
	var started time.Duration
	for b.Loop() {
		begin := time.Now()
		p, err := Start(cfg)
		started += time.Since(begin)
		require.NoError(b, err)
		_, err = p.Wait()
		require.NoError(b, err)
	}
	b.ReportMetric(float64(started.Microseconds())/float64(b.N), "µs-to-exec/op")
}
