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

	"github.com/stretchr/testify/require"
)

// nobodysID is a user id without a name and without granted ids.
const nobodysID = 54321

// ordinaryUser makes a user with granted ids for the time of the test.
func ordinaryUser(t *testing.T) int {
	needRoot(t)
	if findHelper("newuidmap") == "" {
		t.Fatal("this test needs newuidmap: apt-get install uidmap")
	}
	name := fmt.Sprintf("varvetest%d", os.Getpid())
	said, err := exec.Command("useradd", "--no-create-home", name).CombinedOutput()
	require.NoError(t, err, "%s", said)
	t.Cleanup(func() {
		said, err := exec.Command("userdel", name).CombinedOutput()
		require.NoError(t, err, "%s", said)
	})
	u, err := user.Lookup(name)
	require.NoError(t, err)
	uid, err := strconv.Atoi(u.Uid)
	require.NoError(t, err)
	ids, err := readSubids("/etc/subuid", []string{name})
	require.NoError(t, err)
	require.NotEmpty(t, ids, "useradd has granted no ids: set SUB_UID_COUNT in /etc/login.defs")
	return uid
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
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		require.NoError(t, err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

func TestSelfIsRootInItsUserNamespace(t *testing.T) {
	uid := ordinaryUser(t)
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
	uid := ordinaryUser(t)
	cfg := sh(userRoot(t, uid), `echo $$; id -u
touch /mine /theirs && chown 1000:1000 /theirs && stat -c %u:%g /mine /theirs
echo x > /dev/null && head -c 3 /dev/zero | wc -c; ls /sys/class >/dev/null && echo sys; exit 5`)
	text, said, code := play(t, uid, "rootless", &cfg)
	require.Equal(t, 5, code, said)
	require.Equal(t, "1\n0\n0:0\n1000:1000\n3\nsys\n", text)

	var st syscall.Stat_t
	require.NoError(t, syscall.Stat(filepath.Join(cfg.Root, "theirs"), &st))
	ids, err := readSubids("/etc/subuid", []string{fmt.Sprintf("varvetest%d", os.Getpid())})
	require.NoError(t, err)
	require.EqualValues(t, ids[0].Outside+999, st.Uid, "id 1000 inside is the 1000th that was granted")
}

func TestRootlessWithOneID(t *testing.T) {
	for role, uid := range map[string]int{"rootless": nobodysID, "rootless-single": nobodysID + 1} {
		cfg := sh(userRoot(t, uid), `echo $$; id -u; touch /mine; stat -c %u:%g /mine
chown 1000:1000 /mine 2>/dev/null || echo refused; echo x > /dev/null; exit 5`)
		text, said, code := play(t, uid, role, &cfg)
		require.Equal(t, 5, code, said)
		require.Equal(t, "1\n0\n0:0\nrefused\n", text)
	}
}

func TestRangeThatIsRefusedFallsBack(t *testing.T) {
	uid := ordinaryUser(t)
	cfg := sh(userRoot(t, uid), "id -u; cat /proc/self/uid_map")
	text, said, code := play(t, uid, "broken-map", &cfg)
	require.Zero(t, code, said)
	require.Equal(t, []string{"0", "0", strconv.Itoa(uid), "1"}, strings.Fields(text))
	require.Contains(t, said, "fallback: /usr/bin/newuidmap: exit status 1: ")
	require.Contains(t, said, "/etc/subuid")
}

func TestRootlessTerminal(t *testing.T) {
	uid := ordinaryUser(t)
	for _, role := range []string{"rootless", "rootless-single"} {
		cfg := sh(userRoot(t, uid), "test -t 0 && test -c /dev/console")
		cfg.Terminal = true
		_, said, code := play(t, uid, role, &cfg)
		require.Zero(t, code, said)
	}
}

func TestRootlessReadOnlyVolumeKeepsLockedFlags(t *testing.T) {
	uid := ordinaryUser(t)
	cfg := sh(userRoot(t, uid), `grep " /shm " /proc/self/mountinfo; touch /shm/x 2>/dev/null || echo refused`)
	cfg.Mounts = []Mount{{Source: "/dev/shm", Target: "/shm", ReadOnly: true}}
	text, said, code := play(t, uid, "rootless", &cfg)
	require.Zero(t, code, said)
	require.Contains(t, text, " ro,")
	require.Contains(t, text, "refused")
}
