package runner

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// TestIDsAsTheKernel makes random calls on threads of a process of its own, and holds what
// the kernel makes of their ids against what change does.
func TestIDsAsTheKernel(t *testing.T) {
	testenv.Root(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "RUNNER_TEST_ROLE=ids")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func compareAll() error {
	for round := range 200 {
		random := rand.New(rand.NewPCG(uint64(round), 1))
		done := make(chan string)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread is another user
			done <- compareIDs(random)
		}()
		if said := <-done; said != "" {
			return fmt.Errorf("round %d: %s", round, said)
		}
	}
	return nil
}

// idCalls are the calls by name.
func idCalls() map[string]uintptr {
	return map[string]uintptr{
		"setuid": unix.SYS_SETUID, "setreuid": unix.SYS_SETREUID, "setresuid": unix.SYS_SETRESUID, "setfsuid": unix.SYS_SETFSUID,
		"setgid": unix.SYS_SETGID, "setregid": unix.SYS_SETREGID, "setresgid": unix.SYS_SETRESGID, "setfsgid": unix.SYS_SETFSGID,
	}
}

// compareIDs says where they part.
func compareIDs(random *rand.Rand) string {
	var said []string
	var c creds
	names := []string{"setuid", "setreuid", "setresuid", "setfsuid", "setgid", "setregid", "setresgid", "setfsgid"}
	some := []uint32{0, 0, 1000, 1001, 1002, keep}
	for range 30 {
		call := names[random.IntN(len(names))]
		args := [3]uint32{some[random.IntN(len(some))], some[random.IntN(len(some))], some[random.IntN(len(some))]}
		_, _, errno := unix.RawSyscall(idCalls()[call], uintptr(args[0]), uintptr(args[1]), uintptr(args[2]))
		if strings.HasPrefix(call, "setfs") {
			errno = 0 // it returns the old one
		}
		set := &c.user
		if strings.HasSuffix(call, "gid") {
			set = &c.group
		}
		got, want := unix.Errno(0), errno
		*set, got = set.change(call, args, c.mayBecome())
		said = append(said, call)
		if got != want || kernelIDs() != [2]ids{c.user, c.group} {
			return strings.Join(said, ", ")
		}
	}
	return ""
}

func kernelIDs() [2]ids {
	var list [2]ids
	var r, e, s int
	r, e, s = unix.Getresuid()
	fs, _ := unix.SetfsuidRetUid(-1)
	list[0] = ids{uint32(r), uint32(e), uint32(s), uint32(fs)}
	r, e, s = unix.Getresgid()
	fs, _ = unix.SetfsgidRetGid(-1)
	list[1] = ids{uint32(r), uint32(e), uint32(s), uint32(fs)}
	return list
}

func TestRoll(t *testing.T) {
	r := newRoll()
	var before unix.Rlimit
	require.NoError(t, unix.Prlimit(0, unix.RLIMIT_LOCKS, nil, &before))
	defer func() { require.NoError(t, unix.Prlimit(0, unix.RLIMIT_LOCKS, &before, nil)) }()
	c, err := r.credsOf(os.Getpid())
	require.NoError(t, err)
	require.Zero(t, c)
	redis := creds{user: ids{101, 101, 101, 101}, groups: "\x07\x00\x00\x00", told: true}
	require.Zero(t, r.note(os.Getpid(), redis))
	c, err = r.credsOf(os.Getpid())
	require.NoError(t, err)
	require.Equal(t, redis, c)
	require.True(t, c.isIn(7))
	require.False(t, c.isIn(0))
	require.Zero(t, r.note(os.Getpid(), creds{}))
	c, err = r.credsOf(os.Getpid())
	require.NoError(t, err)
	require.Zero(t, c)
	_, err = r.credsOf(1 << 22)
	require.ErrorIs(t, err, unix.ESRCH)
}

// The roll has bounds, whatever programs call themselves.
func TestRollIsBounded(t *testing.T) {
	r := newRoll()
	n := 0
	for ok := true; ok; n++ {
		_, ok = r.enter(creds{user: ids{real: uint32(n)}})
	}
	require.Equal(t, longestRoll+1, n)
	r, n = newRoll(), 0
	for ok := true; ok; n++ {
		_, ok = r.enter(creds{user: ids{real: uint32(n)}, groups: strings.Repeat("\x01", 4*mostGroups)})
	}
	require.Equal(t, roomyRoll/(4*mostGroups)+1, n)
	again, ok := r.enter(creds{user: ids{real: 1}, groups: strings.Repeat("\x01", 4*mostGroups)})
	require.True(t, ok, "one that is there needs no room")
	require.EqualValues(t, 2, again)
}

func TestMayChown(t *testing.T) {
	user := creds{user: ids{5, 5, 5, 5}, group: ids{6, 6, 6, 6}, groups: "\x07\x00\x00\x00"}
	require.True(t, user.mayChown(keep, 6))
	require.True(t, user.mayChown(keep, 7))
	require.True(t, user.mayChown(keep, keep))
	require.False(t, user.mayChown(keep, 8))
	require.False(t, user.mayChown(5, 6))
	require.True(t, (&creds{}).mayChown(5, 6))
}
