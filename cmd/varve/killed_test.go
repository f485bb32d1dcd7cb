package main

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// TestKilledAtRandom kills import, load, pull, commit, tag, rmi and prune VARVE_KILLED
// times (40) at a moment that is drawn anew each time. After each, what was
// acknowledged is there and whole; what was not is whole or absent.
func TestKilledAtRandom(t *testing.T) {
	testenv.FUSE(t)
	rounds := fromEnv(t, "VARVE_KILLED", 40)
	s := newShop(t, filepath.Join(testenv.Dir(t), "store"))
	k := &killer{shop: s, remote: testenv.NewRegistry(t).Host + "/pulled:1", base: s.saved(t, "base:1"), tars: []string{s.tar, smallTar(t, "more", 2_000_000)}}
	s.ok(t, "import", smallTar(t, "pulled", 500_000), k.remote)
	s.ok(t, "push", "-q", k.remote)
	usual := k.usual(t)
	var most int64
	for i := range rounds {
		verb := i % len(k.verbs(i))
		k.round(t, i, k.verbs(i)[verb], usual[verb])
		if i%20 == 0 {
			s.ok(t, "import", s.tar, "swept:1") // sweeps; the next round removes it
			most = max(most, onDisk(t, s.root))
		}
	}
	require.NotZero(t, k.cut, "nothing was killed")
	s.ok(t, "import", s.tar, "swept:1")
	s.ok(t, "rmi", "swept:1")
	left, err := os.ReadDir(filepath.Join(s.root, "tmp"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.Less(t, onDisk(t, s.root), int64(24<<20), "the store does not grow")
	t.Logf("%d rounds, %d of them killed, at most %d bytes", rounds, k.cut, most)
}

// killer ends processes that write to a shop.
type killer struct {
	*shop
	base [sha256.Size]byte
	tars []string

	remote string // an image of a registry

	cut int // how many were killed before they ended
}

func (k *killer) verbs(i int) [][]string {
	return [][]string{
		{"import", k.tars[i/2%2], "victim:1"}, {"load", "-i", k.archive}, {"commit", "stopped", "victim:2"},
		{"tag", "base:1", "victim:3"}, {"pull", "-q", k.remote},
		{"rmi", "-f", "victim:1"}, {"rmi", "-f", "loaded:1"}, {"system", "prune", "-a", "-f", "--filter", "label=gone"},
	}
}

// usual is how long each verb takes when it is left alone.
func (k *killer) usual(t *testing.T) []time.Duration {
	var list []time.Duration
	k.ok(t, "rmi", k.remote)
	k.ok(t, "import", "-c", "LABEL gone=soon", k.tars[1], "gone:1")
	for _, args := range k.verbs(0) {
		begin := time.Now()
		k.ok(t, args...)
		list = append(list, time.Since(begin))
	}
	k.clear(t)
	return list
}

// round kills one process and looks at what it has left.
func (k *killer) round(t *testing.T, i int, args []string, usual time.Duration) {
	t.Helper()
	ref := args[len(args)-1]
	switch {
	case args[0] == "system":
		ref = "gone:1"
		k.ok(t, "import", "-c", "LABEL gone=soon", k.tars[1], ref)
	case args[0] == "rmi" && ref == "victim:1":
		k.ok(t, "import", k.tars[1], ref)
	case args[0] == "rmi":
		k.ok(t, "load", "-i", k.archive)
	}
	killed := k.kill(t, args, rand.N(usual+usual/4))
	names := k.names(t)
	for _, name := range strings.Fields(names) {
		k.saved(t, name) // fails unless each digest is right
	}
	require.Equal(t, k.base, k.saved(t, "base:1"), "round %d, %v", i, args)
	require.Contains(t, k.ok(t, "ps", "-a", "--format", "{{.Names}}"), "stopped")
	if args[0] == "load" {
		ref = "loaded:1"
	}
	switch {
	case killed:
	case args[0] == "rmi", args[0] == "system":
		require.NotContains(t, names, ref+"\n", "round %d, %v", i, args)
	default:
		require.Contains(t, names, ref+"\n", "round %d, %v", i, args)
	}
	k.clear(t)
}

// kill starts a verb and kills it after a while. It returns false if the verb had
// acknowledged before.
func (k *killer) kill(t *testing.T, args []string, after time.Duration) bool {
	t.Helper()
	cmd := k.command(t.Context(), args...)
	require.NoError(t, cmd.Start())
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // it may have ended
	err := cmd.Wait()
	timer.Stop()
	if err == nil {
		return false
	}
	require.Equal(t, -1, cmd.ProcessState.ExitCode(), "varve %v: it was killed, or succeeds", args)
	k.cut++
	return true
}

// clear removes what a round made, all but the base and its container.
func (k *killer) clear(t *testing.T) {
	t.Helper()
	for _, name := range strings.Fields(k.names(t)) {
		if name != "base:1" {
			k.ok(t, "rmi", "-f", name)
		}
	}
}

// onDisk is the bytes of all files below dir, as they are on the disk.
func onDisk(t *testing.T, dir string) int64 {
	t.Helper()
	out := runProgram(t, "du", "-s", "-B1", dir)
	var n int64
	_, err := fmt.Sscan(out, &n)
	require.NoError(t, err)
	return n
}
