package runner

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// attempts are system calls that a program of a container may want to make; each is
// made in a way that does nothing where it is allowed.
func attempts() map[string]func() unix.Errno {
	call := func(number uintptr, args ...uintptr) func() unix.Errno {
		args = append(args, 0, 0, 0, 0, 0, 0)
		return func() unix.Errno {
			_, _, errno := unix.RawSyscall6(number, args[0], args[1], args[2], args[3], args[4], args[5])
			return errno
		}
	}
	bad := ^uintptr(0)
	return map[string]func() unix.Errno{
		"keyctl":          call(unix.SYS_KEYCTL, 0, bad),
		"add_key":         call(unix.SYS_ADD_KEY),
		"bpf":             call(unix.SYS_BPF, bad),
		"kexec_load":      call(unix.SYS_KEXEC_LOAD, 0, 0, 0, bad),
		"mount":           call(unix.SYS_MOUNT),
		"unshare user":    call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		"clone user":      call(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_SIGHAND), // EINVAL where allowed
		"clone3":          call(unix.SYS_CLONE3, 0, 0),
		"io_uring_setup":  call(unix.SYS_IO_URING_SETUP),
		"userfaultfd":     call(unix.SYS_USERFAULTFD, bad),
		"open_by_handle":  call(unix.SYS_OPEN_BY_HANDLE_AT, bad),
		"perf_event_open": call(unix.SYS_PERF_EVENT_OPEN),
		"socket vsock":    call(unix.SYS_SOCKET, unix.AF_VSOCK, bad),
		"ptrace 1":        call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1),
		"newer than all":  call(5000),
		"getpid":          call(unix.SYS_GETPID),
		"key of caller":   searchCanaryKey,
		"socket":          call(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC),
		"prctl": func() unix.Errno {
			var b [16]byte
			return call(unix.SYS_PRCTL, unix.PR_GET_NAME, uintptr(unsafe.Pointer(&b)))()
		},
	}
}

// canaryKey is a key in the session keyring of who starts a container.
const canaryKey = "varve-canary"

// searchCanaryKey looks for it in the session keyring at hand.
func searchCanaryKey() unix.Errno {
	_, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", canaryKey, 0)
	errno, _ := err.(unix.Errno)
	return errno
}

// keyed is the role that has such a key, and then is "contain": all of its threads have it.
func keyed() error {
	runtime.LockOSThread()
	if _, err := unix.KeyctlJoinSessionKeyring("varve-test"); err != nil {
		return err
	}
	if _, err := unix.AddKey("user", canaryKey, []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING); err != nil {
		return err
	}
	if errno := searchCanaryKey(); errno != 0 {
		return fmt.Errorf("the key is not there: %w", errno)
	}
	return becomeContain()
}

// inheriting is the role that lets what it executes inherit every capability, and then is
// "contain".
func inheriting() error {
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	for i := range data {
		data[i].Inheritable = data[i].Permitted
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return err
	}
	for _, c := range everyCapability() {
		_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0) // some are unknown to the kernel
	}
	return becomeContain()
}

func becomeContain() error {
	if err := os.Setenv("RUNNER_TEST_ROLE", "contain"); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", os.Args, os.Environ())
}

// The keys of who starts a container are not inside, whatever it may call.
func TestSessionKeyringIsItsOwn(t *testing.T) {
	needRoot(t)
	cfg := Config{Root: testsRoot(t), Args: []string{"/bin/tests"}, Unconfined: true,
		Env: []string{"RUNNER_TEST_ROLE=attempt", "RUNNER_TEST_THEN=key of caller"}}
	text, said, code := play(t, 0, "keyed", &cfg)
	require.Zero(t, code, said)
	require.Equal(t, "key of caller: ENOKEY\n", text)
}

// CVE-2022-24769: what the caller lets others inherit the program does not have. Each of
// clearing the ambient set and the inheritable one keeps it from having the former; the
// latter is seen by itself.
func TestInheritedCapabilities(t *testing.T) {
	needRoot(t)
	cfg := sh(busyboxRoot(t), "grep -E '^Cap(Inh|Eff|Amb)' /proc/self/status")
	text, said, code := play(t, 0, "inheriting", &cfg)
	require.Zero(t, code, said)
	require.Equal(t, "CapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nCapAmb:\t0000000000000000\n", text)
}

// attempt is the role of a program that tries one of them and prints how it went.
func attempt(name string) int {
	fmt.Println(name+":", unix.ErrnoName(attempts()[name]()))
	return 0
}

// tries runs this test binary in a container, as the program that tries.
func tries(t *testing.T, cfg Config, names ...string) map[string]string {
	t.Helper()
	said := map[string]string{}
	for _, name := range names {
		cfg.Args = []string{"/bin/tests"}
		cfg.Env = []string{"RUNNER_TEST_ROLE=attempt", "RUNNER_TEST_THEN=" + name}
		text, code := output(t, cfg)
		require.Zero(t, code, "%s: %s", name, text)
		_, errno, _ := strings.Cut(strings.TrimSuffix(text, "\n"), ":")
		said[name] = strings.TrimSpace(errno)
	}
	return said
}

// testsRoot is a root with this test binary in it.
func testsRoot(t *testing.T) string {
	root := busyboxRoot(t)
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	if bytes.Contains(self[:min(len(self), 64<<10)], []byte("/ld-linux")) {
		t.Skip("needs a static test binary: CGO_ENABLED=0 go test ./runner")
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "bin/tests"), self, 0o755))
	return root
}

func TestDefaultSystemCalls(t *testing.T) {
	needRoot(t)
	cfg := Config{Root: testsRoot(t)}
	want := map[string]string{"clone3": "ENOSYS", "newer than all": "ENOSYS", "getpid": "", "socket": "", "prctl": ""}
	var names []string
	for name := range attempts() {
		names = append(names, name)
		if _, has := want[name]; !has {
			want[name] = "EPERM"
		}
	}
	require.Equal(t, want, tries(t, cfg, names...))

	// What they give without the filter shows that it was the filter.
	cfg.Unconfined = true
	require.Equal(t, map[string]string{"clone user": "EINVAL", "clone3": "EINVAL", "keyctl": "ENOKEY"},
		tries(t, cfg, "clone user", "clone3", "keyctl"))
}

func TestSystemCallsByCapability(t *testing.T) {
	needRoot(t)
	cfg := Config{Root: testsRoot(t), Capabilities: append(DefaultCapabilities(), unix.CAP_SYS_ADMIN)}
	require.Equal(t, map[string]string{"clone3": "EINVAL", "mount": "EFAULT", "keyctl": "EPERM"}, tries(t, cfg, "clone3", "mount", "keyctl"))
}

func TestOwnProfile(t *testing.T) {
	needRoot(t)
	cfg := sh(busyboxRoot(t), "touch /x && chown 0:0 /x; echo $?")
	cfg.Seccomp = []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chown","fchown","lchown","fchownat"],"action":"SCMP_ACT_ERRNO","errnoRet":5}]}`)
	text, code := output(t, cfg)
	require.Zero(t, code)
	require.Contains(t, text, "Input/output error\n")
	cfg.Seccomp = []byte("{")
	_, err := Start(cfg)
	require.ErrorContains(t, err, "decoding seccomp profile failed")
}

func TestNoNewPrivileges(t *testing.T) {
	needRoot(t)
	cfg := sh(busyboxRoot(t), "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status")
	text, _ := output(t, cfg)
	require.Equal(t, "NoNewPrivs:\t0\nSeccomp:\t2\n", text)
	cfg.NoNewPrivileges = true
	text, _ = output(t, cfg)
	require.Equal(t, "NoNewPrivs:\t1\nSeccomp:\t2\n", text)
	cfg.Unconfined = true
	text, _ = output(t, cfg)
	if single(t) { // changes of owner are pretended there in any case
		require.Equal(t, "NoNewPrivs:\t1\nSeccomp:\t2\n", text)
	} else {
		require.Equal(t, "NoNewPrivs:\t1\nSeccomp:\t0\n", text)
	}
}

// single tells whether these tests run with one id, where nobody else can be had.
func single(t *testing.T) bool {
	ns, err := CurrentUserns()
	require.NoError(t, err)
	return ns != nil && ns.Single
}

func TestUser(t *testing.T) {
	needRoot(t)
	root := busyboxRoot(t)
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:\nada:x:100:50::/home/ada:/bin/sh\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/group"), []byte("staff:x:50:\nmail:x:8:bob,ada\ngames:x:60:ada\n"), 0o644))
	cfg := sh(root, `id -u; id -g; grep Groups /proc/self/status | cut -f 2; echo $HOME; grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f 2`)
	const none, all = "0000000000000000", "00000000a80425fb"
	for user, want := range map[string]string{
		"ada": "100 50 8 50 60 /home/ada", "100": "100 50 8 50 60 /home/ada", "ada:8": "100 8 8 /home/ada",
		"ada:mail": "100 8 8 /home/ada", "7": "7 0 0 /", "7:9": "7 9 9 /",
	} {
		cfg.User, cfg.Groups = user, nil
		if single(t) {
			_, err := Start(cfg)
			require.ErrorContains(t, err, "a single id")
			continue
		}
		text, code := output(t, cfg)
		require.Zero(t, code, text)
		require.Equal(t, want+" "+none+" "+none+" "+all, strings.Join(strings.Fields(text), " "), user)
	}
	cfg.User = "0"
	text, _ := output(t, cfg)
	fields := strings.Split(text, "\n")
	if !single(t) { // there nobody can change those of the caller
		require.Equal(t, "0 ", fields[2], "groups")
	}
	text = strings.Join(slices.Delete(fields, 2, 3), " ")
	require.Equal(t, "0 0 /root "+all+" "+all+" "+all, strings.Join(strings.Fields(text), " "))
	if !single(t) {
		cfg.User, cfg.Groups = "7", []string{"games", "99"}
		text, _ = output(t, cfg)
		require.Contains(t, strings.Join(strings.Fields(text), " "), "7 0 0 60 99 / ")
	} else {
		cfg.User, cfg.UserIsWish = "ada", true
		text, code := output(t, cfg)
		require.Zero(t, code)
		require.Contains(t, text, "0\n0\n")
	}
	for user, says := range map[string]string{"eve": "unable to find user eve: no matching entries in passwd file",
		"ada:none": "unable to find group none: no matching entries in group file"} {
		cfg.User, cfg.Groups, cfg.UserIsWish = user, nil, false
		_, err := Start(cfg)
		require.EqualError(t, err, says)
	}
}

// A user executes nothing that he could not reach himself: the stage looks for the program
// with his rights. (That he has no capabilities then, execve(2) sees to.)
func TestUserCanNotReachTheProgram(t *testing.T) {
	needRoot(t)
	if single(t) {
		t.Skip("there is no other user")
	}
	cfg := Config{Root: busyboxRoot(t), Args: []string{"/private/true"}, User: "7"}
	require.NoError(t, os.Mkdir(filepath.Join(cfg.Root, "private"), 0o700))
	copyFile(t, filepath.Join(cfg.Root, "bin/busybox"), filepath.Join(cfg.Root, "private/true"))
	_, err := Start(cfg)
	require.EqualError(t, err, `exec: "/private/true": stat /private/true: permission denied`)
	cfg.User = ""
	_, code := output(t, cfg)
	require.Zero(t, code)
}

// CVE-2024-9676: a table of users that is no file, leads out, or is endless.
func TestTableOfUsersIsATrap(t *testing.T) {
	needRoot(t)
	root := busyboxRoot(t)
	passwd := filepath.Join(root, "etc/passwd")
	outside := filepath.Join(t.TempDir(), "passwd")
	require.NoError(t, os.WriteFile(outside, []byte("eve:x:0:0::/:\n"), 0o644))
	cfg := sh(root, "true")
	cfg.User = "eve"
	for name, lay := range map[string]func() error{
		"a fifo":        func() error { return unix.Mkfifo(passwd, 0o666) },
		"a link out":    func() error { return os.Symlink(outside, passwd) },
		"a climb out":   func() error { return os.Symlink(strings.Repeat("../", 20)+outside, passwd) },
		"a magic link":  func() error { return os.Symlink("/proc/self/fd/3", passwd) },
		"a device":      func() error { return os.Symlink("/dev/zero", passwd) },
		"a directory":   func() error { return os.Mkdir(passwd, 0o755) },
		"a gigabyte":    func() error { return os.WriteFile(passwd, []byte("\n"), 0o644) },
		"an endless li": func() error { return os.WriteFile(passwd, []byte("x"), 0o644) },
	} {
		require.NoError(t, lay(), name)
		if info, err := os.Stat(passwd); err == nil && info.Mode().IsRegular() && info.Size() == 1 {
			require.NoError(t, os.Truncate(passwd, 1<<30))
		}
		ended := make(chan error, 1)
		go func() {
			_, err := Start(cfg)
			ended <- err
		}()
		select {
		case err := <-ended:
			require.Error(t, err, name)
			require.NotErrorIs(t, err, errors.ErrUnsupported)
			require.Regexp(t, "unable to find user eve|token too long", err.Error(), name)
		case <-time.After(30 * time.Second):
			fd, err := unix.Open(passwd, unix.O_RDWR|unix.O_NONBLOCK, 0) // whoever waits for a FIFO goes on
			require.NoError(t, err)
			require.NoError(t, errors.Join(<-ended, unix.Close(fd)))
			require.Fail(t, "it hung", name)
		}
		require.NoError(t, os.Remove(passwd))
	}
	// No line is too long here, and the one that is wanted is behind what is read.
	many := strings.Repeat("x:x:1:1::/:\n", maxTable/12+1)
	require.NoError(t, os.WriteFile(passwd, []byte(many+"eve:x:0:0::/:\n"), 0o644))
	_, err := Start(cfg)
	require.EqualError(t, err, "/etc/passwd of the container is larger than 8388608 bytes, and what was looked for is not in these")
	require.NoError(t, os.Remove(passwd))
	if !single(t) { // a number needs no table
		cfg.User = "12"
		_, code := output(t, cfg)
		require.Zero(t, code)
	}
}
