package unionfs

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// notOurs are the system calls of Go's scheduler and collector, and those by which
// requests come and are answered.
var notOurs = map[string]bool{
	"futex": true, "nanosleep": true, "clock_nanosleep": true, "epoll_pwait": true, "epoll_ctl": true, "sched_yield": true,
	"getpid": true, "tgkill": true, "rt_sigreturn": true, "rt_sigprocmask": true, "sigaltstack": true, "madvise": true,
	"mmap": true, "munmap": true, "clone": true, "clone3": true, "gettid": true, "rseq": true, "set_robust_list": true,
	"prctl": true, "read": true, "write": true, "writev": true, "io_uring_enter": true, "restart_syscall": true,
}

// callLine is a line of strace -f: a process, and a call that begins, and perhaps ends.
var callLine = regexp.MustCompile(`^\d+ +(\w+)\(`)

// callsDuring counts the system calls that the server makes for requests while act
// runs. What strace does not know by name it calls syscall_0x….
func (s *served) callsDuring(t *testing.T, act func()) (calls map[string]int, sum int) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "calls")
	trace := exec.Command("strace", "-f", "-o", out, "-p", fmt.Sprint(s.cmd.Process.Pid))
	said, err := trace.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, trace.Start())
	line, err := bufio.NewReader(said).ReadString('\n')
	if !strings.Contains(line, "attached") {
		_ = trace.Wait()
		t.Skipf("strace can not look at a process here: %s %v", line, err)
	}
	time.Sleep(100 * time.Millisecond) // its other threads
	act()
	require.NoError(t, trace.Process.Signal(unix.SIGINT))
	_ = trace.Wait() // it ends by the signal
	data, err := os.ReadFile(out)
	require.NoError(t, err)
	calls = map[string]int{}
	for line := range strings.Lines(string(data)) {
		if m := callLine.FindStringSubmatch(line); m != nil && !notOurs[m[1]] {
			calls[m[1]]++
			sum++
		}
	}
	return calls, sum
}

// TestSystemCalls holds the number of system calls that a request costs the server,
// beside those by which it comes and is answered. They are most of what it costs
// (docs/performance.md).
func TestSystemCalls(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("there is no strace here")
	}
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	const files = 20
	for k := range files {
		for _, dir := range []string{"dir", fmt.Sprintf("dir/sub%d", k)} {
			mkdir(t, w.lowers[0], dir)
			path := filepath.Join(w.lowers[0], dir, fmt.Sprintf("file%d", k))
			require.NoError(t, os.WriteFile(path, []byte("some data"), 0o644))
		}
	}
	s := serve(t, w.mnt, w.options())
	defer s.kill(t)
	appendTo := func(path string) {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND, 0)
		require.NoError(t, err)
		_, err = unix.Write(fd, []byte("x"))
		require.NoError(t, err)
		require.NoError(t, unix.Close(fd))
	}
	create := func(path string) {
		fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
		require.NoError(t, err)
		_, err = unix.Write(fd, make([]byte, 1024))
		require.NoError(t, err)
		require.NoError(t, unix.Close(fd))
	}
	in := func(format string, k int) string { return filepath.Join(w.mnt, fmt.Sprintf(format, k)) }
	appendTo(in("dir/file%d", 0))
	create(in("dir/new%d", 0))
	for k := range files { // known to the kernel
		require.NoError(t, unix.Access(in("dir/file%d", k), unix.F_OK))
		require.NoError(t, unix.Access(in("dir/sub%[1]d/file%[1]d", k), unix.F_OK))
	}
	for _, c := range []struct {
		what string
		act  func(k int)
		most int
	}{
		{"append to a file of a layer", func(k int) { appendTo(in("dir/file%d", k)) }, 18},
		{"append to one, in a directory of it", func(k int) { appendTo(in("dir/sub%[1]d/file%[1]d", k)) }, 28},
		{"create, write 1 KiB, close", func(k int) { create(in("dir/new%d", k)) }, 4},
	} {
		calls, sum := s.callsDuring(t, func() {
			for k := 1; k < files; k++ {
				c.act(k)
			}
		})
		require.NotZero(t, sum, "is strace connected?")
		require.LessOrEqual(t, float64(sum)/(files-1), float64(c.most)+0.5, "%s: %v", c.what, calls)
		t.Logf("%s: %.1f, %v", c.what, float64(sum)/(files-1), calls)
	}
}
