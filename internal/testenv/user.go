package testenv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// User is an ordinary user of this machine.
type User struct {
	Name     string
	UID, GID int
	Home     string // a directory of this user's own
	Ranged   bool   // has subordinate ids in /etc/subuid and /etc/subgid

	self bool // the user who runs the test
}

// userPrefix begins the names of the users that tests make; the number of the
// process that made them follows.
const userPrefix = "varvetest-"

var userCount atomic.Int32

// Ranged returns an ordinary user with a range of subordinate ids and the
// programs newuidmap and newgidmap: as root a fresh one, removed when the test
// ends; else the user who runs the test. Where there is none the test is skipped.
func Ranged(t testing.TB) User {
	t.Helper()
	Program(t, "newuidmap", "uidmap")
	if IsRoot() {
		return newUser(t, true)
	}
	u := current(t)
	if !u.Ranged {
		t.Skipf("needs subordinate ids: run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s` as root", u.Name)
	}
	return u
}

// Single returns an ordinary user without subordinate ids: as root a fresh one;
// else the user who runs the test, if that user has none.
func Single(t testing.TB) User {
	t.Helper()
	if IsRoot() {
		return newUser(t, false)
	}
	u := current(t)
	if u.Ranged {
		t.Skipf("needs a user without subordinate ids: run `sudo make test`, which makes one (%s has a range)", u.Name)
	}
	return u
}

func current(t testing.TB) User {
	t.Helper()
	me, err := user.Current()
	require.NoError(t, err)
	return User{Name: me.Username, UID: os.Getuid(), GID: os.Getgid(), Home: t.TempDir(),
		Ranged: hasRange("/etc/subuid", me) && hasRange("/etc/subgid", me), self: true}
}

func hasRange(file string, who *user.User) bool {
	data, err := os.ReadFile(file)
	if err != nil { // no such file: no ranges
		return false
	}
	for line := range strings.Lines(string(data)) {
		if name, _, ok := strings.Cut(line, ":"); ok && (name == who.Username || name == who.Uid) {
			return true
		}
	}
	return false
}

// newUser makes a user with useradd, which gives a range by itself, and takes
// the range away again when it is not wanted. Precondition: root.
func newUser(t testing.TB, ranged bool) User {
	t.Helper()
	Program(t, "useradd", "passwd")
	unlock, err := lock(filepath.Join(os.TempDir(), "varve-test-users.lock"))
	require.NoError(t, err)
	defer func() { require.NoError(t, unlock()) }()
	sweepUsers()

	name := fmt.Sprintf("%s%d-%d", userPrefix, os.Getpid(), userCount.Add(1))
	tool(t, "useradd", "--create-home", "--user-group", "--shell", "/bin/sh", name)
	t.Cleanup(func() { removeUser(t, name) })
	if !ranged {
		dropRange(t, name)
	}
	u, err := user.Lookup(name)
	require.NoError(t, err)
	require.Equal(t, ranged, hasRange("/etc/subuid", u), "useradd gave a range in /etc/subuid")
	uid, err := strconv.Atoi(u.Uid)
	require.NoError(t, err)
	gid, err := strconv.Atoi(u.Gid)
	require.NoError(t, err)
	return User{Name: name, UID: uid, GID: gid, Home: u.HomeDir, Ranged: ranged}
}

// tool runs a program of the host and fails the test when the program fails.
func tool(t testing.TB, name string, arg ...string) {
	t.Helper()
	out, err := exec.Command(name, arg...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, arg, out)
}

// dropRange takes every subordinate id of the user away.
func dropRange(t testing.TB, name string) {
	t.Helper()
	for file, flag := range map[string]string{"/etc/subuid": "--del-subuids", "/etc/subgid": "--del-subgids"} {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		for line := range strings.Lines(string(data)) {
			field := strings.Split(strings.TrimSpace(line), ":")
			if len(field) != 3 || field[0] != name {
				continue
			}
			first, err := strconv.Atoi(field[1])
			require.NoError(t, err)
			count, err := strconv.Atoi(field[2])
			require.NoError(t, err)
			tool(t, "usermod", flag, fmt.Sprintf("%d-%d", first, first+count-1), name)
		}
	}
}

// removeUser removes the user with all files. Processes that still run as the
// user are of the test's making: they are told as a failure, and ended.
func removeUser(t testing.TB, name string) {
	u, err := user.Lookup(name)
	require.NoError(t, err)
	within(20*time.Second, func() bool { return len(processesOf(u.Uid)) == 0 })
	for _, p := range processesOf(u.Uid) {
		t.Errorf("the test left a process of %s behind: %v", name, p)
		_ = syscall.Kill(p.pid, syscall.SIGKILL) // it may have gone by itself
	}
	if err := deleteUser(name, u.HomeDir); err != nil {
		t.Errorf("remove the test's user: %v", err)
	}
}

func deleteUser(name, home string) error {
	// userdel says 12 when the home is not wholly the user's: files of
	// subordinate ids. They go with the directory.
	out, err := exec.Command("userdel", "--force", name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("userdel %s: %w: %s", name, err, out)
	}
	return os.RemoveAll(home)
}

// sweepUsers removes the users of test processes that were killed.
func sweepUsers() {
	data, err := os.ReadFile("/etc/passwd")
	if err != nil { // useradd will tell
		return
	}
	for line := range strings.Lines(string(data)) {
		field := strings.Split(line, ":")
		pid, _, _ := strings.Cut(strings.TrimPrefix(field[0], userPrefix), "-")
		if !strings.HasPrefix(field[0], userPrefix) || len(field) < 6 {
			continue
		}
		if _, err := os.Stat("/proc/" + pid); err != nil {
			_ = deleteUser(field[0], field[5]) // tried again at the next run
		}
	}
}

// Command prepares a program to run as u in u's home, with a clean environment:
// HOME, USER, PATH and LANG, and what the caller appends to Env.
func (u User) Command(ctx context.Context, name string, arg ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, arg...)
	cmd.Dir = u.Home
	cmd.Env = []string{"HOME=" + u.Home, "USER=" + u.Name, "LOGNAME=" + u.Name, "LANG=C.UTF-8",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if !u.self {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}}
	}
	return cmd
}

// Dir makes a directory of u's own, mode 0700, removed when the test ends.
func (u User) Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(u.Home, "test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	u.own(t, dir)
	return dir
}

// Give copies the file path, which u may not be able to read, into u's home and
// returns where it is. Mode is kept, u owns the copy.
func (u User) Give(t testing.TB, path string) string {
	t.Helper()
	target := filepath.Join(u.Dir(t), filepath.Base(path))
	require.NoError(t, copyFile(path, target))
	u.own(t, target)
	return target
}

func (u User) own(t testing.TB, path string) {
	t.Helper()
	if !u.self {
		require.NoError(t, os.Chown(path, u.UID, u.GID))
	}
}

// process is one line of the process table.
type process struct {
	pid, parent int
	name        string
	state       byte
	start       uint64 // clock ticks since boot
	uids        []string
}

func (p process) String() string {
	return fmt.Sprintf("%s (pid %d, parent %d)", p.name, p.pid, p.parent)
}

// processesOf lists the live processes whose real or effective user is uid.
func processesOf(uid string) []process {
	return slices.DeleteFunc(processes(), func(p process) bool { return p.state == 'Z' || !slices.Contains(p.uids, uid) })
}
