package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// TestWatchStays: the process that ends a container whose supervisor was killed is there
// for as long as the container is, and neither it nor the supervisor holds what the verb
// that started them was given. Together they are as small as is said of them, and only
// their user may speak with them.
func TestWatchStays(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		given, err := os.CreateTemp(filepath.Dir(h.root), "given")
		require.NoError(t, err)
		defer func() { require.NoError(t, given.Close()) }()
		cmd := h.command(t.Context(), "run", "-d", "small:1", "sleep", "1000")
		cmd.ExtraFiles = slices.Repeat([]*os.File{given}, 30) // more than a child gets of its own, which takes the first numbers
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)

		supervisor := h.state(t).Supervisor.Pid
		var watch string
		testenv.Eventually(t, "the watch", func() bool {
			watch = childNamed(t, supervisor, "varve-watch")
			return watch != ""
		})
		time.Sleep(time.Second) // Go's runtime looks after its descriptors each 10 ms
		require.Equal(t, watch, childNamed(t, supervisor, "varve-watch"), "it has not ended")
		exe, err := os.Stat("/proc/" + watch + "/exe")
		require.NoError(t, err)
		small, err := os.Stat(h.stageFile(t))
		require.NoError(t, err)
		require.True(t, os.SameFile(exe, small), "the watch is the small program")
		own, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", supervisor))
		require.NoError(t, err)
		require.Equal(t, filepath.Join(h.root, "stage/supervisor"), filepath.Dir(own))
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", supervisor))
		require.NoError(t, err)
		require.Equal(t, "varve\n", string(comm), "what ps shows")
		for _, pid := range []string{watch, fmt.Sprint(supervisor)} {
			require.NotContains(t, descriptors(t, pid), given.Name())
		}
		require.Less(t, resident(t, fmt.Sprint(supervisor)), 15<<10, "KiB of the supervisor")
		require.Less(t, resident(t, watch), 5<<10, "KiB of the watch")
		door, err := os.Lstat(filepath.Join(filepath.Dir(h.stateFile(t)), "control.sock"))
		require.NoError(t, err)
		require.Equal(t, os.ModeSocket|0o600, door.Mode())
	})
}

// TestStoreWithoutExecution: where no program of the store can be executed varve itself is
// the supervisor, and the stage is in memory.
func TestStoreWithoutExecution(t *testing.T) {
	testenv.Root(t)
	testenv.FUSE(t)
	testenv.CheckLeaks(t)
	dir := filepath.Join(testenv.Dir(t), "noexec")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC, ""))
	t.Cleanup(func() { testenv.Unmount(t, dir) })
	h := &home{bin: testenv.Varve(t), root: filepath.Join(dir, "store")}
	h.ok(t, "import", testenv.Busybox(t).Tar, "small:1")
	id := strings.TrimSpace(h.ok(t, "run", "-d", "small:1", "sleep", "1000"))
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", h.state(t).Supervisor.Pid))
	require.NoError(t, err)
	require.Equal(t, h.bin, own)
	require.Equal(t, "inside\n", h.ok(t, "exec", id, "echo", "inside"))
	h.ok(t, "rm", "-f", id)
}

// stageFile is the program that the containers of a store begin with.
func (h *home) stageFile(t *testing.T) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(h.root, "stage/[0-9a-f]*"))
	require.NoError(t, err)
	require.Len(t, list, 1)
	return list[0]
}

// TestStageCanNotBeOverwritten is CVE-2019-5736: a container waits for a process that is
// the program by which varve enters it, keeps that open, and writes to it when it has
// ended.
func TestStageCanNotBeOverwritten(t *testing.T) {
	const attack = `while [ ! -e /said ]; do for p in /proc/[0-9]*; do
		case "$(tr '\0' ' ' < $p/cmdline)" in /proc/self/exe*) (exec 9< $p/exe && sleep 0.5 && { echo owned > /proc/self/fd/9; } 2> /said.new; mv /said.new /said);; esac
		done 2>/dev/null; done; sleep 1000`
	eachUser(t, func(t *testing.T, h *home) {
		h.ok(t, "run", "-d", "--name", "evil", "small:1", "sh", "-c", attack)
		said := ""
		testenv.Eventually(t, "the attack", func() bool {
			told, code := h.run(t, "exec", "evil", "/proc/self/exe")
			require.Equal(t, 125, code, "it is no program for people: %s", told)
			said, code = h.run(t, "exec", "evil", "cat", "/said")
			return code == 0
		})
		require.Contains(t, said, "Read-only file system")
		raw, err := os.ReadFile(h.stageFile(t))
		require.NoError(t, err)
		require.Equal(t, filepath.Base(h.stageFile(t)), fmt.Sprintf("%x", sha256.Sum256(raw)))
	})
}

// childNamed is the pid of a child that has this name as its whole command line.
func childNamed(t *testing.T, parent int, name string) string {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	require.NoError(t, err)
	for _, list := range lists {
		raw, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, pid := range strings.Fields(string(raw)) {
			if args, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && string(args) == name+"\x00" {
				return pid
			}
		}
	}
	return ""
}

// descriptors are the names of what a process has open.
func descriptors(t *testing.T, pid string) (names []string) {
	links, err := filepath.Glob("/proc/" + pid + "/fd/*")
	require.NoError(t, err)
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// resident is the memory of a process in KiB.
func resident(t *testing.T, pid string) int {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(status), "VmRSS:")
	require.True(t, found)
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return kib
}
