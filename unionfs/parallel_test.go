package unionfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// TestAppendTogether: many writers of one lower file bring it up once, and no
// write is lost.
func TestAppendTogether(t *testing.T) {
	testenv.CheckLeaks(t)
	const writers, lines = 8, 50
	w := newWorld(t, 1)
	mkdir(t, w.lowers[0], "a/b")
	first := strings.Repeat("lower\n", 20_000)
	must(os.WriteFile(filepath.Join(w.lowers[0], "a/b/log"), []byte(first), 0o644))
	w.mount(t, w.options())
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			f, err := os.OpenFile(filepath.Join(w.mnt, "a/b/log"), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for k := range lines {
				if _, err := fmt.Fprintf(f, "writer %d line %d\n", i, k); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	data, err := os.ReadFile(filepath.Join(w.upper, "a/b/log"))
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(data), first))
	rest := string(data[len(first):])
	for i := range writers {
		for k := range lines {
			require.Equal(t, 1, strings.Count(rest, fmt.Sprintf("writer %d line %d\n", i, k)))
		}
	}
	require.Equal(t, writers*lines, strings.Count(rest, "\n"))
}

// TestManyAtOnce lets goroutines fight over a few names, files and directories
// alike. What they do may fail; nothing may hang, leak or show a file with
// another's data; and a remount shows the same tree.
func TestManyAtOnce(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 2)
	for i := range 6 {
		mkdir(t, w.lowers[i%2], fmt.Sprintf("d%d/s", i))
		for k := range 6 {
			must(os.WriteFile(filepath.Join(w.lowers[k%2], fmt.Sprintf("f%d", k)), []byte("whole file\n"), 0o644))
			mkdir(t, w.lowers[k%2], fmt.Sprintf("d%d", i))
			must(os.WriteFile(filepath.Join(w.lowers[k%2], fmt.Sprintf("d%d/f%d", i, k)), []byte("whole file\n"), 0o644))
		}
	}
	before := hashTrees(t, w.lowers)
	opt := w.options()
	opt.Volatile = true
	w.mount(t, opt)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() { fight(t, w.mnt, worker) })
	}
	wg.Wait()
	tree := treeOf(t, w.mnt)
	w.unmount(t)
	w.mount(t, opt)
	require.Equal(t, tree, treeOf(t, w.mnt))
	require.Equal(t, before, hashTrees(t, w.lowers))
}

func fight(t *testing.T, root string, worker int) {
	x := uint32(worker)*2654435761 + 1
	next := func(n uint32) uint32 { x = x*1664525 + 1013904223; return (x >> 8) % n }
	pick := func() string {
		if next(3) == 0 {
			return filepath.Join(root, fmt.Sprintf("f%d", next(6)))
		}
		return filepath.Join(root, fmt.Sprintf("d%d/f%d", next(6), next(6)))
	}
	for range 400 {
		a, b := pick(), pick()
		switch next(8) {
		case 0:
			_ = unix.Unlink(a)
		case 1:
			_ = unix.Rename(a, b)
		case 2:
			_ = unix.Link(a, b)
		case 3:
			_ = unix.Chmod(a, 0o600)
		case 4:
			_ = os.RemoveAll(filepath.Dir(a) + "/s")
			_ = unix.Mkdir(filepath.Dir(a)+"/s", 0o755)
		case 5:
			_, _ = os.ReadDir(filepath.Dir(a))
		case 6:
			temp := fmt.Sprintf("%s.%d", a, worker)
			if os.WriteFile(temp, []byte("whole file\n"), 0o644) == nil {
				_ = unix.Rename(temp, a)
			}
		default:
			if data, err := os.ReadFile(a); err == nil && string(data) != "whole file\n" {
				t.Errorf("%s: %q", a, data)
			}
		}
	}
}
