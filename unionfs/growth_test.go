package unionfs

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// growthOps is how many operations TestNoGrowth does.
var growthOps = flag.Int("growth.ops", 200000, "operations after which the server must not have grown")

// growEnv makes the test binary work in the directory that its value names: as many
// operations as each line of its input says.
const growEnv = "VARVE_TEST_GROW"

const growthFiles = 200 // of the layer

// TestNoGrowth: after many operations of all kinds by another process, and when the
// kernel has forgotten what it knew, the server has the memory, the open files and the
// goroutines that it had after the first fifth of them.
func TestNoGrowth(t *testing.T) {
	testenv.Root(t)                // to make the kernel forget
	t.Setenv("TMPDIR", "/dev/shm") // in memory: a disk would take hours
	w := newWorld(t, 2)
	for k := range growthFiles {
		dir := fmt.Sprintf("d%d", k%10)
		mkdir(t, w.lowers[0], dir)
		mkdir(t, w.lowers[1], dir)
		must(os.WriteFile(filepath.Join(w.lowers[k%2], dir, fmt.Sprint("f", k)), make([]byte, 3000), 0o644))
	}
	opt := w.options()
	opt.Volatile = true
	w.mount(t, opt)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), growEnv+"="+w.mnt)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	answers := bufio.NewReader(out)
	var first size
	const parts = 10
	for part := range parts {
		_, err := fmt.Fprintln(in, *growthOps/parts)
		require.NoError(t, err)
		_, err = answers.ReadString('\n')
		require.NoError(t, err)
		now := measure(t)
		t.Logf("%d operations: %+v", (part+1)**growthOps/parts, now)
		if part == 1 {
			first = now
		}
		if part > 1 {
			require.Less(t, now.heap, first.heap+2<<20, "bytes of the heap")
			require.LessOrEqual(t, now.fds, first.fds+8, "open files")
			require.LessOrEqual(t, now.goroutines, first.goroutines+8, "goroutines")
		}
	}
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
}

type size struct {
	heap            uint64 // bytes in use
	fds, goroutines int
}

// measure is the least of several tries: what the kernel forgets it tells later.
func measure(t *testing.T) (least size) {
	require.NoError(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0o200))
	for try := range 10 {
		time.Sleep(50 * time.Millisecond)
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		fds, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		if now := (size{m.HeapAlloc, len(fds), runtime.NumGoroutine()}); try == 0 || now.heap < least.heap {
			least = now
		}
	}
	return least
}

// growForTest is the main function of the process that works in root.
func growForTest(root string, in io.Reader) error {
	r, made := rand.New(rand.NewPCG(1, 2)), 0
	for {
		var ops int
		if _, err := fmt.Fscanln(in, &ops); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		for range ops {
			made++
			if err := growStep(root, r, made); err != nil {
				return err
			}
		}
		fmt.Println("done")
	}
}

// growStep does one thing. Names that were never there before have made in them.
func growStep(root string, r *rand.Rand, made int) error {
	dir := fmt.Sprintf("%s/d%d", root, r.IntN(10))
	fresh := fmt.Sprintf("%s/new%d", dir, made)
	k := r.IntN(growthFiles)
	low := fmt.Sprintf("%s/d%d/f%d", root, k%10, k)
	switch r.IntN(10) {
	case 0:
		if err := unix.Lstat(fresh, new(unix.Stat_t)); !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", fresh, err)
		}
		return nil
	case 1:
		return errors.Join(os.WriteFile(fresh, make([]byte, 100), 0o644), os.Remove(fresh))
	case 2: // copy-up the first time
		return os.WriteFile(low, make([]byte, 200), 0o644)
	case 3:
		_ = os.Remove(low) // it may be gone
		return nil
	case 4:
		return errors.Join(os.WriteFile(fresh, nil, 0o644), os.Rename(fresh, low))
	case 5:
		_, err := os.ReadDir(dir)
		return err
	case 6:
		f, err := os.Create(fresh)
		if err != nil {
			return err
		}
		_, err = f.WriteString("open, and gone")
		return errors.Join(err, os.Remove(fresh), f.Close())
	case 7:
		return errors.Join(os.Mkdir(fresh, 0o755), os.Mkdir(fresh+"/sub", 0o755), os.RemoveAll(fresh))
	case 8: // a directory of the layers, there and back
		return errors.Join(os.Rename(dir, fresh[:len(root)]+"/moved"), os.Rename(root+"/moved", dir))
	}
	_ = unix.Setxattr(low, "user.test", []byte("value"), 0) // it may be gone
	_, _ = os.ReadFile(low)
	return nil
}
