package runner

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ordinaryUser makes a user with granted ids for the time of the test, and
// returns the first uid that was granted, too. It is the user who runs the
// tests if that is not root.
func ordinaryUser(t *testing.T) (uid, granted int) {
	if inUserns(t) {
		t.Skip("is itself run by an ordinary user")
	}
	if findHelper("newuidmap") == "" {
		t.Fatal("this test needs newuidmap: apt-get install uidmap")
	}
	if os.Geteuid() != 0 {
		plan, err := PlanUserns()
		require.NoError(t, err)
		if plan.Single {
			t.Skip(plan.Reason)
		}
		return os.Geteuid(), plan.UIDs[1].Outside
	}
	name := fmt.Sprintf("varvetest%d", os.Getpid())
	said, err := exec.Command("useradd", "--no-create-home", name).CombinedOutput()
	require.NoError(t, err, "%s", said)
	t.Cleanup(func() { // a process of the user may still be ending
		require.Eventually(t, func() bool {
			said, err = exec.Command("userdel", name).CombinedOutput()
			return err == nil
		}, time.Minute, 50*time.Millisecond, "userdel")
	})
	u, err := user.Lookup(name)
	require.NoError(t, err)
	uid, err = strconv.Atoi(u.Uid)
	require.NoError(t, err)
	ids, err := readSubids("/etc/subuid", []string{name})
	require.NoError(t, err)
	require.NotEmpty(t, ids, "useradd has granted no ids: set SUB_UID_COUNT in /etc/login.defs")
	return uid, ids[0].Outside
}

// nobody is a user without a name and without granted ids.
func nobody(t *testing.T) int {
	needRoot(t)
	if inUserns(t) {
		t.Skip("is itself run by an ordinary user")
	}
	return 54321
}

func inUserns(t testing.TB) bool {
	ns, err := CurrentUserns()
	require.NoError(t, err)
	return ns != nil
}

// All that holds for root holds for an ordinary user in a user namespace.
func TestEverythingRootless(t *testing.T) {
	uid, _ := ordinaryUser(t)
	for _, role := range []string{"rootless", "rootless-single"} {
		t.Run(role, func(t *testing.T) {
			text, said, code := play(t, uid, role, nil, "RUNNER_TEST_THEN=tests", "TMPDIR="+os.TempDir())
			require.Zero(t, code, "%s\n%s", text, said)
		})
	}
}

func needRoot(t testing.TB) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become other users")
	}
}

// userRoot is a busybox root that belongs to uid.
func userRoot(t *testing.T, uid int) string {
	root, err := os.MkdirTemp("", "runner-root-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	fillBusyboxRoot(t, root)
	if uid == os.Geteuid() {
		return root
	}
	require.NoError(t, filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, uid, uid)
	}))
	return root
}

// play runs this test binary in role as uid and returns stdout, stderr and code.
func play(t *testing.T, uid int, role string, cfg *Config, env ...string) (string, string, int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "RUNNER_TEST_ROLE=" + role, "RUNNER_TEST_THEN=contain"}, env...)
	if cfg != nil {
		data, err := json.Marshal(cfg)
		require.NoError(t, err)
		cmd.Env = append(cmd.Env, "RUNNER_TEST_CONFIG="+string(data))
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if uid != os.Geteuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		require.NoError(t, err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

func TestSelfIsRootInItsUserNamespace(t *testing.T) {
	uid, _ := ordinaryUser(t)
	full := "CapEff:\t000001ffffffffff"
	for role, maps := range map[string]string{
		"rootless":        fmt.Sprintf("/proc/self/uid_map 0 %d 1 1 ", uid),
		"rootless-single": fmt.Sprintf("/proc/self/uid_map 0 %d 1\n", uid),
	} {
		text, said, code := play(t, uid, role, nil, "RUNNER_TEST_THEN=self")
		require.Zero(t, code, said)
		require.Contains(t, text, "uid=0 gid=0 args=[\"varve-test\"] stage=\"\"\n", role)
		require.Contains(t, text, full, role)
		require.Contains(t, text, maps, role)
	}
}

func TestRootlessWithRange(t *testing.T) {
	uid, granted := ordinaryUser(t)
	cfg := sh(userRoot(t, uid), `echo $$; id -u
touch /mine /theirs && chown 1000:1000 /theirs && stat -c %u:%g /mine /theirs
echo x > /dev/null && head -c 3 /dev/zero | wc -c; ls /sys/class >/dev/null && echo sys; exit 5`)
	text, said, code := play(t, uid, "rootless", &cfg)
	require.Equal(t, 5, code, said)
	require.Equal(t, "1\n0\n0:0\n1000:1000\n3\nsys\n", text)

	var st syscall.Stat_t
	require.NoError(t, syscall.Stat(filepath.Join(cfg.Root, "theirs"), &st))
	require.EqualValues(t, granted+999, st.Uid, "id 1000 inside is the 1000th that was granted")
}

func TestRootlessWithOneID(t *testing.T) {
	requireOneID(t, nobody(t), "rootless")
}

func TestRootlessWithOneIDThoughThereAreMore(t *testing.T) {
	uid, _ := ordinaryUser(t)
	requireOneID(t, uid, "rootless-single")
}

func requireOneID(t *testing.T, uid int, role string) {
	cfg := sh(userRoot(t, uid), `echo $$; id -u; touch /mine; stat -c %u:%g /mine
chown 1000:1000 /mine && stat -c %u:%g /mine; echo x > /dev/null; exit 5`)
	text, said, code := play(t, uid, role, &cfg)
	require.Equal(t, 5, code, said)
	require.Equal(t, "1\n0\n0:0\n0:0\n", text, "the change of owner is pretended")
}

func TestRangeThatIsRefusedFallsBack(t *testing.T) {
	uid, _ := ordinaryUser(t)
	cfg := sh(userRoot(t, uid), "id -u; cat /proc/self/uid_map")
	text, said, code := play(t, uid, "broken-map", &cfg)
	require.Zero(t, code, said)
	require.Equal(t, []string{"0", "0", strconv.Itoa(uid), "1"}, strings.Fields(text))
	require.Contains(t, said, "fallback: /usr/bin/newuidmap: exit status 1: ")
	require.Contains(t, said, "/etc/subuid")
}

func TestRootlessTerminal(t *testing.T) {
	uid, _ := ordinaryUser(t)
	for _, role := range []string{"rootless", "rootless-single"} {
		cfg := sh(userRoot(t, uid), "test -t 0 && test -c /dev/console")
		cfg.Terminal = true
		_, said, code := play(t, uid, role, &cfg)
		require.Zero(t, code, said)
	}
}

func TestRootlessReadOnlyVolumeKeepsLockedFlags(t *testing.T) {
	uid, _ := ordinaryUser(t)
	cfg := sh(userRoot(t, uid), `grep " /shm " /proc/self/mountinfo; touch /shm/x 2>/dev/null || echo refused`)
	cfg.Mounts = []Mount{{Source: "/dev/shm", Target: "/shm", ReadOnly: true}}
	text, said, code := play(t, uid, "rootless", &cfg)
	require.Zero(t, code, said)
	require.Contains(t, text, " ro,")
	require.Contains(t, text, "refused")
}
