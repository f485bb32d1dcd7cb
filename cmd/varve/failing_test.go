package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/internal/testenv/failfs"
)

// TestFailingDisk has each verb work on a disk that fails at its first change, then at
// a later one, and so on until the verb comes through; with VARVE_FAILING=1 at every
// one. Each says what is wrong, in a sentence. When the disk is well again there is
// all that was acknowledged, an image is whole or absent, and a check is clean after
// at most one repair that loses nothing.
func TestFailingDisk(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	for name, plan := range map[string]failfs.Plan{
		"EIO": {Errno: syscall.EIO}, "EIO once": {Errno: syscall.EIO, Once: true}, "ENOSPC": {Errno: syscall.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // with the two others
			d := newFailing(t)
			for verb, args := range map[string][]string{
				"import": {"import", d.tar, "victim:1"}, "load": {"load", "-i", d.archive}, "commit": {"commit", "stopped", "victim:2"},
				"pull": {"pull", d.remote}, "tag": {"tag", "base:1", "victim:3"}, "rmi": {"rmi", "gone:1"},
				"prune": {"system", "prune", "-a", "-f", "--filter", "label=gone"}, "save": {"save", "-o", d.disk + "/saved", "base:1"},
			} {
				t.Run(verb, func(t *testing.T) { d.fail(t, plan, args) })
			}
		})
	}
}

// failing is a shop on a disk that can be told to fail.
type failing struct {
	*shop
	fs     *failfs.FS
	below  string // the directory that the disk shows
	disk   string // where it is mounted
	remote string // an image of a registry
	base   string // the names and ids that are always there
}

func newFailing(t *testing.T) *failing {
	t.Helper()
	d := &failing{below: testenv.Dir(t), disk: testenv.Dir(t)}
	d.shop = newShop(t, filepath.Join(d.below, "store"))
	d.remote = testenv.NewRegistry(t).Host + "/pulled:1"
	d.ok(t, "import", smallTar(t, "pulled", 20_000), d.remote)
	d.ok(t, "push", "-q", d.remote)
	d.ok(t, "rmi", d.remote)
	d.base = d.list(t)
	d.fs = failfs.Mount(t, d.below, d.disk)
	d.root = filepath.Join(d.disk, "store")
	require.Equal(t, d.base, d.list(t), "the same through the mount")
	return d
}

// list has a line for each image, with its whole id.
func (d *failing) list(t *testing.T) string {
	t.Helper()
	return d.ok(t, "images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}")
}

// fail runs a verb again and again, and has a later change fail each time.
func (d *failing) fail(t *testing.T, plan failfs.Plan, args []string) {
	stride := 2 - min(1, fromEnv(t, "VARVE_FAILING", 0))
	refused := 0
	for at := 1; ; at++ {
		if stride > 1 {
			at += at / stride
		}
		d.prepare(t, args)
		plan.At = at
		d.fs.Set(plan)
		out, code := d.run(t, args...)
		reached := d.fs.Steps() >= at
		d.heal()
		what := fmt.Sprintf("step %d of varve %v: %s", at, args, out)
		if code != 0 {
			refused++
			requireSentence(t, out, code, what)
		}
		d.check(t, args, code == 0, what)
		if !reached {
			require.Zero(t, code, what)
			break
		}
	}
	require.NotZero(t, refused, "varve %v: the disk never failed", args)
}

// heal has the disk be well again. Who first asks is told of what could not be written
// before, and then no more.
func (d *failing) heal() {
	d.fs.Set(failfs.Plan{})
	_ = exec.Command("sync", "-f", d.disk).Run() // it is told
}

// prepare makes what rmi and prune remove.
func (d *failing) prepare(t *testing.T, args []string) {
	t.Helper()
	if args[0] == "rmi" || args[0] == "system" {
		d.ok(t, "import", "-c", "LABEL gone=soon", d.tar, "gone:1")
	}
}

// requireSentence: varve says what is wrong, and no part of it ended by surprise.
func requireSentence(t *testing.T, out string, code int, what string) {
	t.Helper()
	require.Equal(t, 1, code, what)
	require.Regexp(t, `(?m)^varve: .+`, out, what)
	require.NotRegexp(t, `goroutine|panic|SIG[A-Z]+|fatal error`, out, what)
}

// check looks at the store when the disk is well, and removes what is new.
func (d *failing) check(t *testing.T, args []string, done bool, what string) {
	t.Helper()
	if out, code := d.run(t, "system", "check", "--deep"); code != 0 {
		require.Contains(t, out, "system check --repair", what)
		out, code = d.run(t, "system", "check", "--repair")
		require.Zero(t, code, "%s\nrepair: %s", what, out)
		out, code = d.run(t, "system", "check", "--deep")
		require.Zero(t, code, "%s\nafter the repair: %s", what, out)
	}
	list := d.list(t)
	for line := range strings.Lines(d.base) {
		require.Contains(t, list, line, what)
	}
	require.Equal(t, "stopped\n", d.ok(t, "ps", "-a", "--format", "{{.Names}}"), what)
	var more []string
	for line := range strings.Lines(list) {
		if id, _, _ := strings.Cut(line, " "); !strings.Contains(d.base, line) {
			more = append(more, id)
		}
	}
	switch removes := args[0] == "rmi" || args[0] == "system"; {
	case removes && done:
		require.Empty(t, more, what)
	case done && args[0] != "save":
		require.Len(t, more, 1, what)
	}
	d.clear(t, args, more)
	left, err := os.ReadDir(filepath.Join(d.below, "store/tmp"))
	require.NoError(t, err)
	require.Empty(t, left, what)
}

// clear removes the images that a verb has made, or not removed, when it is seen that
// they are whole.
func (d *failing) clear(t *testing.T, args, ids []string) {
	t.Helper()
	if args[0] == "tag" {
		if len(ids) > 0 {
			d.ok(t, "rmi", "victim:3")
		}
		return
	}
	for _, id := range ids {
		d.ok(t, "save", "-o", filepath.Join(testenv.Dir(t), "whole"), id)
		d.ok(t, "rmi", "-f", id)
	}
}
