package runner

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// canary is a directory of the host with a file, which must stay as they are.
type canary struct {
	dir  string
	stat [2]unix.Stat_t
}

func newCanary(t *testing.T) *canary {
	c := &canary{dir: t.TempDir()}
	require.NoError(t, os.WriteFile(filepath.Join(c.dir, "file"), []byte("sings"), 0o640))
	c.stat = c.look(t)
	return c
}

func (c *canary) look(t *testing.T) (st [2]unix.Stat_t) {
	require.NoError(t, unix.Stat(c.dir, &st[0]))
	require.NoError(t, unix.Stat(filepath.Join(c.dir, "file"), &st[1]))
	return st
}

func (c *canary) requireAlive(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(c.dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	data, err := os.ReadFile(filepath.Join(c.dir, "file"))
	require.NoError(t, err)
	require.Equal(t, "sings", string(data))
	now := c.look(t)
	for i := range now {
		now[i].Atim = c.stat[i].Atim
	}
	require.Equal(t, c.stat, now)
}

func TestImageLinksInPlaceOfSystemDirectoriesAreRefused(t *testing.T) {
	needRoot(t)
	bird := newCanary(t)
	for _, name := range []string{"proc", "sys", "dev"} {
		for _, target := range []string{bird.dir, "etc", "/"} {
			root := busyboxRoot(t)
			require.NoError(t, os.Symlink(target, filepath.Join(root, name)))
			_, err := Start(sh(root, "true"))
			require.EqualError(t, err, fmt.Sprintf(
				"/%[1]s of the image is not a directory: refused, as /%[1]s is mounted there", name))
		}
	}
	bird.requireAlive(t)
}

// CVE-2025-31133, CVE-2025-52565: what is mounted over kernel files, and on
// /dev/console, is never taken from the image.
func TestDevicesAreNotTheImages(t *testing.T) {
	needRoot(t)
	root, bird := busyboxRoot(t), newCanary(t)
	require.NoError(t, os.Mkdir(filepath.Join(root, "dev"), 0o755))
	for _, name := range []string{"null", "console", "pts", "ptmx", "shm", "tty", "fd"} {
		require.NoError(t, os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(root, "dev", name)))
	}
	pattern := corePattern(t)
	text, code := output(t, sh(root, `echo "|/evil" > /dev/null; test -c /dev/null && test -d /dev/pts &&
cat /proc/keys /proc/timer_list; echo "|/evil" > /proc/sys/kernel/core_pattern`))
	require.NotZero(t, code)
	require.Equal(t, "sh: can't create /proc/sys/kernel/core_pattern: Read-only file system\n", text)
	require.Equal(t, pattern, corePattern(t))
	bird.requireAlive(t)
}

// corePattern is what the kernel does with a core of this machine, which is what an attack
// wants to have changed. If one succeeds, it is put back.
func corePattern(t *testing.T) string {
	const name = "/proc/sys/kernel/core_pattern"
	pattern, err := os.ReadFile(name)
	require.NoError(t, err)
	t.Cleanup(func() {
		if now, err := os.ReadFile(name); err == nil && string(now) != string(pattern) {
			require.NoError(t, os.WriteFile(name, pattern, 0))
		}
	})
	return string(pattern)
}

// What would change the kernel of the machine can not be opened to be written.
func TestKernelFilesAreReadOnly(t *testing.T) {
	needRoot(t)
	text, code := output(t, sh(busyboxRoot(t), `for d in /sys /proc/sys /proc/irq /proc/bus /proc/fs /proc/sysrq-trigger; do
for f in $(find $d -maxdepth 3 -type f -perm -200 2>/dev/null | head -n 60); do (: >> $f) 2>/dev/null && echo $f; done; done; echo end`))
	require.Zero(t, code, text)
	require.Equal(t, "end\n", text)
}

// CVE-2021-30465: links in the image and in shared volumes stay inside.
func TestVolumeTargetsStayInside(t *testing.T) {
	needRoot(t)
	root, bird, host := busyboxRoot(t), newCanary(t), t.TempDir()
	require.NoError(t, os.Symlink(bird.dir, filepath.Join(root, "absolute")))
	up := strings.Repeat("../", 20) + bird.dir
	require.NoError(t, os.Symlink(up, filepath.Join(root, "relative")))
	require.NoError(t, os.MkdirAll(filepath.Join(root, bird.dir), 0o755))
	for _, target := range []string{"/absolute", "/relative", "/absolute/new", "/relative/new/er", "/../../" + bird.dir + "/x"} {
		text, code := output(t, withMounts(sh(root, "touch "+target+"/here"), Mount{Source: host, Target: target}))
		require.Zero(t, code, text)
		require.NoError(t, os.Remove(filepath.Join(host, "here")))
	}
	bird.requireAlive(t)
}

// The same as a race: one name of a shared volume is a directory and a link to
// the host in turn, as fast as the kernel can. Two guards hold here: names are resolved in
// the root (by itself: TestInRoot and TestMakeDirs in internal/at), and nothing else
// is to be seen when that is done (TestHostMountsAreNotToBeSeen). The race needs both gone.
func TestVolumeTargetRace(t *testing.T) {
	needRoot(t)
	root, bird, shared, host := busyboxRoot(t), newCanary(t), t.TempDir(), t.TempDir()
	a, b := filepath.Join(shared, "a"), filepath.Join(shared, "b")
	require.NoError(t, os.Mkdir(a, 0o755))
	require.NoError(t, os.Symlink(strings.Repeat("../", 20)+bird.dir, b))
	stop := exchange(t, a, b)
	cfg := withMounts(sh(root, "touch /v/a/new/x"), Mount{Source: shared, Target: "/v"}, Mount{Source: host, Target: "/v/a/new"})
	for range 50 {
		if _, _, err := runOutput(cfg); err != nil {
			require.NotContains(t, err.Error(), "init stage ended")
		}
	}
	stop()
	bird.requireAlive(t)
}

// exchange swaps two names again and again, until stop is called.
func exchange(t *testing.T, a, b string) (stop func()) {
	over, stopped := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-over:
				stopped <- nil
				return
			default:
				if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
					stopped <- err
					return
				}
			}
		}
	}()
	return func() {
		close(over)
		require.NoError(t, <-stopped)
	}
}

// CVE-2024-21626. Magic links are refused (by itself: TestInRootRefusesMagicLinks in
// internal/at), and what is outside is, whatever the way there was (the next test).
func TestWorkingDirectoryThroughADescriptorIsRefused(t *testing.T) {
	needRoot(t)
	root := busyboxRoot(t)
	leak, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(leak)) }()
	for fd := 3; fd <= 20; fd++ {
		link := fmt.Sprintf("link%d", fd)
		require.NoError(t, os.Symlink(fmt.Sprintf("/proc/self/fd/%d", fd), filepath.Join(root, link)))
		for _, dir := range []string{fmt.Sprintf("/proc/self/fd/%d", fd), fmt.Sprintf("/proc/1/fd/%d/..", fd) + "/" + fmt.Sprint(fd),
			fmt.Sprintf("/proc/self/fd/%d/etc", fd), fmt.Sprintf("/proc/thread-self/fd/%d", fd), "/" + link} {
			cfg := sh(root, "ls")
			cfg.Cwd = dir
			_, err := Start(cfg)
			require.ErrorContains(t, err, "the working directory", dir)
		}
	}
}

// The same guard by itself: whatever way led to a directory outside, nobody stays there.
func TestWorkingDirectoryOutsideIsRefused(t *testing.T) {
	needRoot(t)
	bird := newCanary(t)
	text, said, code := play(t, 0, "go-outside", nil, "RUNNER_TEST_THEN="+bird.dir, "RUNNER_TEST_CONFIG="+t.TempDir())
	require.Zero(t, code, said)
	require.Equal(t, "the working directory \"/\" is refused: it is outside of the container\n", text)
}

// goOutside is the role of a stage that has got hold of a directory outside of its root.
func goOutside(dir, root string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err = errors.Join(err, unix.Chroot(root), unix.Chdir("/")); err != nil {
		return err
	}
	fmt.Println(enterDir(fd, nil, "/"))
	return nil
}

// Where the mounts of the host are shared with others, those of a container are its own:
// it can not even begin otherwise, as its root takes the place of the host's.
func TestSharedMountsOfTheHost(t *testing.T) {
	needRoot(t)
	cfg := sh(busyboxRoot(t), "grep -c shared: /proc/self/mountinfo")
	text, said, code := play(t, 0, "sharing", &cfg)
	require.Equal(t, 1, code, said)
	require.Equal(t, "0\n", text)
}

// sharing is the role that has all mounts shared, in a mount namespace of its own, and
// plays "contain" there.
func sharing() (int, error) {
	if os.Getenv("RUNNER_TEST_THEN") == "contain" {
		if err := os.Setenv("RUNNER_TEST_THEN", ""); err != nil {
			return 0, err
		}
		c, err := StartSelf(Self{Args: []string{"varve-test"}, PrivateMounts: true, Stdout: os.Stdout, Stderr: os.Stderr})
		if err != nil {
			return 0, err
		}
		return c.Wait()
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return 0, err
	}
	return contain()
}

func TestHostMountsAreNotToBeSeen(t *testing.T) {
	needRoot(t)
	text, _ := output(t, withMounts(sh(busyboxRoot(t), "cut -d' ' -f5 /proc/self/mountinfo | sort"),
		Mount{Source: t.TempDir(), Target: "/data"}))
	allowed := append(append(MaskedPaths(), ReadOnlyPaths()...), "/", "/data",
		"/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")
	for name := range strings.FieldsSeq(text) {
		if inUserns(t) && strings.HasPrefix(name, "/sys/") || slices.Contains(deviceNames(), name) {
			continue // the host's, as we can make none; and nodes beside which no others can be opened
		}
		require.Contains(t, allowed, name)
	}
	require.Contains(t, strings.Fields(text), "/data")
}

func deviceNames() (list []string) {
	for _, d := range devices() {
		list = append(list, "/dev/"+d.name)
	}
	return list
}

// helper starts this test binary, or the copy of it at binary, in role
// "contain" and returns it with the pid of the container's program.
func helper(t *testing.T, binary string, cfg Config) (cmd *exec.Cmd, pid int, start uint64) {
	data, err := json.Marshal(&cfg)
	require.NoError(t, err)
	pidFile := filepath.Join(t.TempDir(), "pid")
	cmd = exec.Command(binary)
	cmd.Env = []string{"RUNNER_TEST_ROLE=contain", "RUNNER_TEST_CONFIG=" + string(data), "RUNNER_TEST_PIDFILE=" + pidFile}
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { // of a test that failed
		if pid != 0 {
			if now, err := ProcessStartTime(pid); err == nil && now == start {
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended since
			}
		}
	})
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(pidFile)
		if err != nil {
			return false
		}
		_, err = fmt.Sscan(string(text), &pid, &start)
		return err == nil
	}, 10*time.Second, 5*time.Millisecond)
	return cmd, pid, start
}

// kill9 ends what helper started and waits until the container is gone, too.
func kill9(t *testing.T, cmd *exec.Cmd, pid int, start uint64) {
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool {
		now, err := ProcessStartTime(pid)
		return err != nil || now != start
	}, 5*time.Second, 5*time.Millisecond, "the container outlives its supervisor")
}

func TestContainerDiesWithItsSupervisor(t *testing.T) {
	needRoot(t)
	root := busyboxRoot(t)
	cmd, pid, start := helper(t, "/proc/self/exe", sh(root, "while :; do date >> /log; sleep 0.01; done"))
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(root, "log"))
		return err == nil
	}, 5*time.Second, time.Millisecond)
	kill9(t, cmd, pid, start)
	size := func() int64 {
		info, err := os.Stat(filepath.Join(root, "log"))
		require.NoError(t, err)
		return info.Size()
	}
	before := size()
	time.Sleep(50 * time.Millisecond)
	require.Equal(t, before, size(), "something in it still writes")
}

// gosu and its like, as which many images run, become another user, and with
// that the kernel forgets PR_SET_PDEATHSIG.
func TestContainerThatChangesItsUserDiesToo(t *testing.T) {
	needRoot(t)
	if ns, err := CurrentUserns(); err != nil || ns != nil && ns.Single {
		t.Skip("there is no other user")
	}
	root := busyboxRoot(t)
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("user:x:1000:1000::/:/bin/sh\n"), 0o644))
	cmd, pid, start := helper(t, "/proc/self/exe", sh(root, "exec su -s /bin/sh user -c 'exec sleep 1000'"))
	require.Eventually(t, func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		return err == nil && strings.Contains(string(status), "Uid:\t1000\t1000")
	}, 5*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return hasWatch(t, cmd.Process.Pid) }, 5*time.Second, time.Millisecond)
	kill9(t, cmd, pid, start)
}

func hasWatch(t *testing.T, supervisor int) bool {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", supervisor))
	require.NoError(t, err)
	for _, name := range lists {
		list, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, child := range strings.Fields(string(list)) {
			args, err := os.ReadFile("/proc/" + child + "/cmdline")
			if err == nil && string(args) == watchName+"\x00" {
				return true
			}
		}
	}
	return false
}

func TestStageNoticesThatItsParentIsGone(t *testing.T) {
	ours, theirs, err := newLink()
	require.NoError(t, err)
	defer theirs.close()
	gone, err := theirs.parentIsGone()
	require.NoError(t, err)
	require.False(t, gone)
	ours.close()
	gone, err = theirs.parentIsGone()
	require.NoError(t, err)
	require.True(t, gone)
}

// CVE-2019-5736: the image makes process 1 the runtime itself, keeps its file
// open, and writes to it when it does not run any more.
func TestRuntimeCanNotBeOverwritten(t *testing.T) {
	needRoot(t)
	if dynamic(t) {
		t.Skip("needs a static test binary, which the race detector does not make")
	}
	root, runtime := busyboxRoot(t), filepath.Join(t.TempDir(), "runtime")
	copyFile(t, "/proc/self/exe", runtime)
	require.NoError(t, os.WriteFile(filepath.Join(root, "entry"), []byte("#!/proc/self/exe\n"), 0o755))
	cmd, pid, start := helper(t, runtime, Config{Root: root, Args: []string{"/entry"}, Env: []string{"RUNNER_TEST_ROLE=sleep"}})
	exe, err := os.Open(fmt.Sprintf("/proc/%d/exe", pid))
	require.NoError(t, err)
	defer func() { require.NoError(t, exe.Close()) }()
	same, err := sameFile(exe, runtime)
	require.NoError(t, err)
	require.True(t, same, "the image did get hold of the runtime")
	kill9(t, cmd, pid, start)

	_, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", exe.Fd()), os.O_WRONLY, 0)
	require.ErrorIs(t, err, unix.EROFS)
	// By its own name it could be written to now: it was not the lack of rights.
	file, err := os.OpenFile(runtime, os.O_WRONLY, 0)
	require.NoError(t, err)
	require.NoError(t, file.Close())
}

func TestSealedCopyOfTheRuntime(t *testing.T) {
	mem, err := copyBinary()
	require.NoError(t, err)
	defer func() { require.NoError(t, mem.Close()) }()
	_, err = mem.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, unix.EPERM)
	require.ErrorIs(t, mem.Truncate(0), unix.EPERM)
	out, err := exec.Command(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), mem.Fd()), "-test.list", "^TestSealedCopy").Output()
	require.NoError(t, err)
	require.Equal(t, "TestSealedCopyOfTheRuntime\n", string(out))
}

func copyFile(t *testing.T, from, to string) {
	in, err := os.Open(from)
	require.NoError(t, err)
	defer func() { _ = in.Close() }() // only read
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, err)
	require.NoError(t, out.Close())
}

func sameFile(f *os.File, name string) (bool, error) {
	a, err := f.Stat()
	if err != nil {
		return false, err
	}
	b, err := os.Stat(name)
	return err == nil && os.SameFile(a, b), err
}

// dynamic tells whether this binary needs a program interpreter to start.
func dynamic(t *testing.T) bool {
	f, err := elf.Open("/proc/self/exe")
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// CVE-2022-0492: a control group tree of one's own to mount is a release_agent to
// write, which the kernel runs outside. The canary is what it would make.
func TestReleaseAgentIsOutOfReach(t *testing.T) {
	needRoot(t)
	canary := filepath.Join(t.TempDir(), "canary")
	script := "mkdir -p /cg; for kind in cgroup cgroup2; do for o in rdma memory pids none; do " +
		"mount -t $kind -o $o none /cg 2>/dev/null && echo mounted $kind; done; done; " +
		"find / -name release_agent -o -name 'cgroup.procs' 2>/dev/null | while read f; do " +
		"(echo '" + canary + "' > $f) 2>/dev/null && echo wrote $f; done; echo done"
	for _, unconfined := range []bool{false, true} { // capabilities alone have to do, too
		cfg := sh(busyboxRoot(t), script)
		cfg.Unconfined = unconfined
		text, code := output(t, cfg)
		require.Zero(t, code)
		require.Equal(t, "done\n", text)
	}
	require.NoFileExists(t, canary)
}

// The container's own files of /etc go over names, never where links lead.
func TestOwnFilesCoverNames(t *testing.T) {
	needRoot(t)
	bird, own := newCanary(t), filepath.Join(t.TempDir(), "own")
	require.NoError(t, os.WriteFile(own, []byte("own\n"), 0o644))
	for what, link := range map[string]func(root string) error{
		"a file of the host": func(root string) error {
			return os.Symlink(filepath.Join(bird.dir, "file"), filepath.Join(root, "etc/hosts"))
		},
		"a way out": func(root string) error {
			return os.Symlink(strings.Repeat("../", 20)+bird.dir+"/file", filepath.Join(root, "etc/hosts"))
		},
		"/etc itself": func(root string) error {
			return errors.Join(os.Remove(filepath.Join(root, "etc")), os.MkdirAll(filepath.Join(root, bird.dir), 0o755),
				os.Symlink(bird.dir, filepath.Join(root, "etc")))
		},
	} {
		root := busyboxRoot(t)
		require.NoError(t, link(root), what)
		text, code := output(t, withMounts(sh(root, "cat /etc/hosts; echo new > /etc/hosts"), Mount{Source: own, Target: "/etc/hosts", Cover: true}))
		require.Zero(t, code, text)
		require.Equal(t, "own\n", text, what)
		require.NoError(t, os.WriteFile(own, []byte("own\n"), 0o644))
		bird.requireAlive(t)
	}
	root := busyboxRoot(t)
	require.NoError(t, os.Remove(filepath.Join(root, "etc")))
	require.NoError(t, os.Symlink("/proc/sys/kernel", filepath.Join(root, "etc")))
	_, err := Start(withMounts(sh(root, "true"), Mount{Source: own, Target: "/etc/hostname", Cover: true}))
	require.ErrorContains(t, err, "refused, as the target is inside /proc")
}

// A name that is made to be covered changes no times.
func TestCoveredNameIsMadeQuietly(t *testing.T) {
	needRoot(t)
	root, own := busyboxRoot(t), filepath.Join(t.TempDir(), "own")
	require.NoError(t, os.WriteFile(own, []byte("own\n"), 0o644))
	then := time.Unix(1e9, 0)
	require.NoError(t, os.Chtimes(filepath.Join(root, "etc"), then, then))
	text, code := output(t, withMounts(sh(root, "cat /etc/hosts"), Mount{Source: own, Target: "/etc/hosts", Cover: true}))
	require.Zero(t, code, text)
	require.Equal(t, "own\n", text)
	info, err := os.Stat(filepath.Join(root, "etc"))
	require.NoError(t, err)
	require.Equal(t, then, info.ModTime())
	info, err = os.Stat(filepath.Join(root, "etc/hosts"))
	require.NoError(t, err)
	require.Zero(t, info.Size())
}

// Who is root of the machine and may make device nodes, which docker's capabilities
// allow, opens none of them: not in the image, not in /dev, in a volume or in memory.
func TestNodesThatAreMadeInside(t *testing.T) {
	needRoot(t)
	if inUserns(t) {
		t.Skip("there no node can be made: TestEverythingRootless runs the rest")
	}
	root, host := busyboxRoot(t), t.TempDir()
	cfg := withMounts(sh(root, `for f in /x /dev/x /v/x /t/x /dev/shm/x /etc/x; do mknod $f c 1 5 && head -c 3 $f && echo opened $f; done 2>/dev/null
head -c 3 /dev/zero | wc -c; head -c 3 /dev/given | wc -c; chmod 0 /dev/given /dev/null`), Mount{Source: host, Target: "/v"})
	cfg.Tmpfs = []Tmpfs{{Target: "/t", Options: []string{"dev"}}}
	cfg.Devices = []Device{{Source: "/dev/zero", Target: "/dev/given"}}
	text, code := output(t, cfg)
	require.Zero(t, code, text)
	require.Equal(t, "3\n3\n", text)
	var st unix.Stat_t
	require.NoError(t, unix.Stat("/dev/zero", &st))
	require.NotZero(t, st.Mode&0o777, "the host's node is another one")
	require.NoError(t, unix.Lstat(filepath.Join(host, "x"), &st), "it was made")
	// Privileged, it opens them.
	cfg.Privileged = true
	text, _ = output(t, cfg)
	require.NotEqual(t, "3\n3\n", text)
}

// Only control groups of its own are shown, and they can not be written.
func TestControlGroupsAreItsOwn(t *testing.T) {
	needRoot(t)
	text, code := output(t, sh(busyboxRoot(t), "find /sys/fs/cgroup -mindepth 1"))
	require.Zero(t, code, text)
	require.Empty(t, text, "it has none")
}

// CVE-2025-52881: what is written below /proc on the way reaches the kernel's, whatever
// the image has there, and however a name of a shared volume changes meanwhile.
func TestProcIsTheKernels(t *testing.T) {
	needRoot(t)
	root, shared, file := busyboxRoot(t), t.TempDir(), filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("|/evil\n"), 0o644))
	for _, dir := range []string{"proc/self/attr", "proc/sys/kernel", "sys/fs/cgroup"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	fakes := []string{"proc/self/oom_score_adj", "proc/self/attr/exec", "proc/sys/kernel/core_pattern"}
	for _, name := range fakes {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte("fake\n"), 0o666))
	}
	pattern := corePattern(t)
	score := 500
	cfg := sh(root, "cat /proc/self/oom_score_adj /proc/sys/kernel/core_pattern")
	cfg.OOMScoreAdj = &score
	text, code := output(t, cfg)
	require.Zero(t, code, text)
	require.Equal(t, "500\n"+pattern, text)

	a, b := filepath.Join(shared, "a"), filepath.Join(shared, "b")
	require.NoError(t, os.Mkdir(a, 0o755))
	require.NoError(t, os.Symlink("/proc/sys/kernel", b))
	stop := exchange(t, a, b)
	cfg = withMounts(cfg, Mount{Source: shared, Target: "/v"}, Mount{Source: file, Target: "/v/a/core_pattern"})
	for range 50 {
		text, code, err := runOutput(cfg)
		if err != nil {
			require.NotContains(t, err.Error(), "init stage ended")
			continue
		}
		require.Zero(t, code, text)
		require.Equal(t, "500\n"+pattern, text)
	}
	stop()
	for _, name := range fakes {
		data, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		require.Equal(t, "fake\n", string(data), name)
	}
	require.Equal(t, pattern, corePattern(t))
}
