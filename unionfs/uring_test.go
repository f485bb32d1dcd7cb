package unionfs

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/whiteout"
)

// overUring has every view of the test served over io_uring, or skips it.
func overUring(t *testing.T) {
	t.Helper()
	testenv.FUSEUring(t)
	t.Setenv(transportEnv, TransportUring.String())
}

// TestUring does over io_uring what shows the view as a whole over /dev/fuse.
func TestUring(t *testing.T) {
	overUring(t)
	for name, test := range map[string]func(t *testing.T){
		"Requests":       TestRequests,
		"Locks":          TestLocks,
		"AppendTogether": TestAppendTogether,
		"ManyAtOnce":     TestManyAtOnce,
		"Detach":         TestDetach,
		"NoXattrs":       TestNoXattrs,
		"NoExecAndNames": TestNoExecAndNames,
		"DeadServer":     TestDeadServer,
		"Posix":          TestPosix,
	} {
		t.Run(name, test)
	}
}

// TestOracleUring is TestOracle over io_uring, with a quarter of the operations.
func TestOracleUring(t *testing.T) {
	overUring(t)
	testOracle(t, Cached, *oracleSteps/4)
}

// TestUringThreads: requests that come together are answered together, and threads,
// rings and memory go with the view.
func TestUringThreads(t *testing.T) {
	overUring(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	data := strings.Repeat("0123456789abcdef", 3<<16) // three requests
	for i := range 8 {
		must(os.WriteFile(filepath.Join(w.lowers[0], fmt.Sprint(i)), []byte(data), 0o644))
	}
	before := mappings(t)
	for range 3 {
		w.mount(t, w.options())
		require.Equal(t, TransportUring, w.server.Transport())
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				name := filepath.Join(w.mnt, fmt.Sprint(i))
				if got, err := os.ReadFile(name); err != nil || string(got) != data {
					t.Errorf("%s: %d bytes: %v", name, len(got), err)
				}
				if err := os.WriteFile(name+".new", []byte(data), 0o600); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for q := range w.server.uring.queues {
			require.LessOrEqual(t, w.server.uring.queues[q].all.Load(), int32(queueThreads))
		}
		w.unmount(t)
		require.Equal(t, before, mappings(t))
	}
}

// mappings counts the memory that this process shares with rings.
func mappings(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return strings.Count(string(maps), "io_uring")
}

// TestTransport: what the host does not have is told with what to do; auto takes
// what there is.
func TestTransport(t *testing.T) {
	testenv.FUSE(t)
	w := newWorld(t, 1)
	opt := w.options()
	opt.Transport, opt.MaxWrite = TransportUring, 4096
	_, err := Mount(w.mnt, opt)
	require.ErrorContains(t, err, "transport=auto takes what there is", "never with requests that small")
	opt.Transport = TransportAuto
	w.mount(t, opt)
	require.Equal(t, TransportDev, w.server.Transport())
	w.unmount(t)

	testenv.FUSEUring(t)
	opt.MaxWrite = 0
	w.mount(t, opt)
	require.Equal(t, TransportUring, w.server.Transport())
	w.unmount(t)
	opt.Transport = TransportDev
	w.mount(t, opt)
	require.Equal(t, TransportDev, w.server.Transport())
}

// TestKilledUring is TestKilled over io_uring.
func TestKilledUring(t *testing.T) {
	overUring(t)
	for range 10 {
		killedOnce(t, whiteout.Overlay)
	}
}

// TestUringAborted: when somebody ends the connection by force, who waits for an
// answer gets an error, and the server ends as after an unmount.
func TestUringAborted(t *testing.T) {
	overUring(t)
	testenv.Root(t)
	testenv.CheckLeaks(t)
	control := t.TempDir()
	require.NoError(t, unix.Mount("none", control, "fusectl", 0, ""))
	defer func() { require.NoError(t, unix.Unmount(control, 0)) }()
	w := newWorld(t, 1)
	w.mount(t, w.options())
	var st unix.Stat_t
	require.NoError(t, unix.Stat(w.mnt, &st))
	var wg sync.WaitGroup
	working := make(chan struct{}, 8)
	for i := range 8 {
		wg.Go(func() {
			var err error
			for k := 0; err == nil; k++ {
				err = os.WriteFile(filepath.Join(w.mnt, fmt.Sprint(i)), []byte("x"), 0o600)
				if k == 10 {
					working <- struct{}{}
				}
			}
			if !slices.Contains([]string{"ENOTCONN", "ECONNABORTED"}, errnoOf(err)) {
				t.Error(err)
			}
		})
	}
	for range 8 {
		<-working
	}
	abort := filepath.Join(control, fmt.Sprint(unix.Minor(st.Dev)), "abort")
	must(os.WriteFile(abort, []byte("1"), 0))
	wg.Wait()
	w.server.Wait()
	w.unmount(t)
}

// TestUringBusy: a view in use stays when somebody unmounts it, and is served on.
func TestUringBusy(t *testing.T) {
	overUring(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	w.mount(t, w.options())
	f, err := os.Create(filepath.Join(w.mnt, "file"))
	require.NoError(t, err)
	require.ErrorIs(t, w.server.Unmount(), unix.EBUSY)
	_, err = f.WriteString("still there")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	data, err := os.ReadFile(filepath.Join(w.upper, "file"))
	require.NoError(t, err)
	require.Equal(t, "still there", string(data))
}

// TestUringConfined: a server that may run on one core alone answers programs on
// all, and stays where it is put.
func TestUringConfined(t *testing.T) {
	overUring(t)
	w := newWorld(t, 1)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(0, &all))
	defer func() { require.NoError(t, unix.SchedSetaffinity(0, &all)) }()
	var cores []int
	for core := range 1024 {
		if all.IsSet(core) {
			cores = append(cores, core)
		}
	}
	stay := func(core int) {
		var one unix.CPUSet
		one.Set(core)
		require.NoError(t, unix.SchedSetaffinity(0, &one))
	}
	stay(cores[0])
	s := serve(t, w.mnt, w.options())
	defer s.kill(t)
	for _, core := range cores {
		stay(core)
		must(os.WriteFile(filepath.Join(w.mnt, fmt.Sprint(core)), []byte("x"), 0o600))
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", s.cmd.Process.Pid))
	require.NoError(t, err)
	require.NotEmpty(t, tasks)
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		require.NoError(t, err)
		require.Regexp(t, fmt.Sprintf(`(?m)^Cpus_allowed_list:\s+%d$`, cores[0]), string(text))
	}
}
