package runner

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// An exec has the rights of process 1, and no more.
func TestExecHasTheRightsOfTheProgram(t *testing.T) {
	needRoot(t)
	const rights = "grep -E '^(Uid|Gid|Groups|NoNewPrivs|Seccomp|Cap...):' "
	for name, cfg := range map[string]Config{
		"by default":        {},
		"without new ones":  {NoNewPrivileges: true},
		"with fewer":        {Capabilities: []int{unix.CAP_CHOWN}},
		"without a profile": {Unconfined: true},
	} {
		cfg.Root = busyboxRoot(t)
		p := startSleeping(t, cfg)
		want := execOutput(t, p, cfg, rights+"/proc/1/status")
		require.Equal(t, 10, strings.Count(want, "\n"), "%s: %s", name, want)
		require.Equal(t, want, execOutput(t, p, cfg, rights+"/proc/self/status"), name)
	}
}

// execOutput runs a script in the container of p, and returns what it printed.
func execOutput(t *testing.T, p *Process, cfg Config, script string) string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "output"))
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	cfg.Args, cfg.Env, cfg.Stdout, cfg.Stderr = []string{"sh", "-c", script}, []string{"PATH=/bin"}, file, file
	process, err := p.Exec(cfg)
	require.NoError(t, err)
	_, err = process.Wait()
	require.NoError(t, err)
	data, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	return string(data)
}

// peek is the role of a program that looks for a file in the roots of all processes, with
// CAP_SYS_PTRACE. It says when it has looked through a stage, and what it has found.
func peek(name string) error {
	for {
		list, err := os.ReadDir("/proc")
		if err != nil {
			return err
		}
		for _, e := range list {
			dir := "/proc/" + e.Name()
			if data, err := os.ReadFile(dir + "/root" + name); err == nil {
				fmt.Printf("found %s\n", data)
			}
			args, err := os.ReadFile(dir + "/cmdline")
			if _, rootErr := os.Stat(dir + "/root/bin"); err == nil && rootErr == nil && string(args) == execName+"\x00" {
				fmt.Println("seen")
			}
		}
	}
}

// Who may look into every process of the container, as debuggers do, finds none that sees
// files of the host: what becomes an exec is born inside, be it the watch that forks for it or
// the supervisor itself.
func TestExecIsBornInside(t *testing.T) {
	needRoot(t)
	bird := newCanary(t)
	out, in, err := os.Pipe()
	require.NoError(t, err)
	defer func() { require.NoError(t, out.Close()) }()
	cfg := Config{Root: testsRoot(t), Args: []string{"/bin/tests"}, Stdout: in, Stderr: in,
		Env:          []string{"RUNNER_TEST_ROLE=peek", "RUNNER_TEST_THEN=" + filepath.Join(bird.dir, "file")},
		Capabilities: append(DefaultCapabilities(), unix.CAP_SYS_PTRACE)}
	p, err := Start(cfg)
	require.NoError(t, err)
	require.NoError(t, in.Close())
	said, enough := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(enough)
		said <- readPeeks(out, 20)
	}()
	require.Eventually(t, func() bool { return p.watch.Load() != nil }, 10*time.Second, time.Millisecond)
	forks := []*watch{p.watch.Load(), {closed: true}}
	for i, looked := 0, false; !looked; i++ {
		p.watch.Store(forks[i%2])
		execOutput(t, p, Config{Root: cfg.Root}, "true")
		select {
		case <-enough:
			looked = true
		default:
		}
	}
	require.NoError(t, <-said)
	require.NoError(t, p.Signal(unix.SIGKILL))
	requireCode(t, p, 137)
	bird.requireAlive(t)
}

// readPeeks reads what peek says, until it has seen as many stages, or found the file.
func readPeeks(r io.Reader, times int) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if lines.Text() != "seen" {
			return fmt.Errorf("it said: %s", lines.Text())
		}
		if times--; times == 0 {
			return nil
		}
	}
	return io.ErrUnexpectedEOF
}

// When a stage executes the program its capabilities are the container's, and not only those
// of the program, which the bounding set sees to. It still has descriptors of its own, though,
// so nobody inside can look into it (PR_SET_DUMPABLE). It is held there by a lease on the program.
func TestStagesCanNotBeLookedInto(t *testing.T) {
	needRoot(t)
	for stage, start := range map[string]func(p *Process, cfg Config) (*Process, error){
		execName: (*Process).Exec,
		initName: func(p *Process, cfg Config) (*Process, error) {
			target, err := p.pidfd()
			if err != nil {
				return nil, err
			}
			defer func() { _ = target.Close() }() // a pidfd
			cfg.Shared.PID = target
			return Start(cfg)
		},
	} {
		cfg := Config{Root: busyboxRoot(t), Args: []string{"/true"}}
		p := startSleeping(t, cfg)
		file := filepath.Join(cfg.Root, "true")
		copyFile(t, filepath.Join(cfg.Root, "bin/busybox"), file)
		lease, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		_, err = unix.FcntlInt(uintptr(lease), unix.F_SETLEASE, unix.F_WRLCK)
		require.NoError(t, err)
		started := make(chan error)
		var held *Process
		go func() {
			var err error
			held, err = start(p, cfg)
			started <- err
		}()
		for kind := unix.F_WRLCK; kind == unix.F_WRLCK; { // until it is wanted back
			kind, err = unix.FcntlInt(uintptr(lease), unix.F_GETLEASE, 0)
			require.NoError(t, err)
		}
		text := execOutput(t, p, cfg, `for d in /proc/[0-9]*; do [ "$(tr '\0' ' ' < $d/cmdline)" = "`+stage+` " ] || continue
grep CapPrm $d/status; readlink $d/exe; readlink $d/root; readlink $d/fd/4; done; echo end`)
		require.NoError(t, unix.Close(lease))
		require.NoError(t, <-started)
		requireCode(t, held, 0)
		require.Equal(t, "CapPrm:\t00000000a80425fb\nend\n", text, stage)
	}
}

// A terminal of an exec is the kernel's, whatever somebody who may mount has put in its place.
func TestExecTerminalIsTheKernels(t *testing.T) {
	needRoot(t)
	cfg := Config{Root: busyboxRoot(t), Capabilities: append(DefaultCapabilities(), unix.CAP_SYS_ADMIN)}
	p := startSleeping(t, cfg)
	require.Equal(t, "fake\n", execOutput(t, p, cfg, "busybox umount /dev/pts && echo fake > /dev/pts/ptmx && cat /dev/pts/ptmx"))
	cfg.Args, cfg.Env, cfg.Terminal = []string{"true"}, []string{"PATH=/bin"}, true
	_, err := p.Exec(cfg)
	require.EqualError(t, err, "terminal: /dev/pts of the container is not the kernel's")
}
