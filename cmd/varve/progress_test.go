package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/engine"
	"github.com/varvefs/varve/internal/testenv"
)

func TestBarLine(t *testing.T) {
	id := digest.FromString("x")
	short := id.Encoded()[:12]
	for _, c := range []struct {
		step  engine.Step
		width int
		want  string
	}{
		{engine.Step{What: "Waiting"}, 80, short + ": Waiting"},
		{engine.Step{What: "Pulling", Total: 3_000_000}, 80, short + ": Pulling " + strings.Repeat("░", 30) + " 0B/3MB"},
		{engine.Step{What: "Pulling", Done: 1_500_000, Total: 3_000_000}, 80, short + ": Pulling " + strings.Repeat("█", 15) + strings.Repeat("░", 15) + " 1.5MB/3MB"},
		{engine.Step{What: "Pushing", Done: 4_000_000, Total: 3_000_000}, 80, short + ": Pushing " + strings.Repeat("█", 30) + " 4MB/3MB"},
		{engine.Step{What: "Pulling", Total: 3_000_000}, 26, short + ": Pulling ░░░"},
	} {
		c.step.Layer = id
		require.Equal(t, c.want, barLine(c.step, c.width))
	}
}

// TestBarsAreDrawnInPlace: each layer keeps its line, and a redraw begins above the
// first.
func TestBarsAreDrawnInPlace(t *testing.T) {
	var out bytes.Buffer
	b := &bars{out: &out, width: func() int { return 80 }}
	one, two := digest.FromString("1"), digest.FromString("2")
	b.step(engine.Step{Layer: one, What: "Waiting"}) // drawn at once
	b.step(engine.Step{Layer: two, What: "Waiting"})
	b.step(engine.Step{Layer: one, What: "Pull complete"})
	b.finish()
	require.Equal(t, "\r"+one.Encoded()[:12]+": Waiting\x1b[K\n"+
		"\x1b[1A\r"+one.Encoded()[:12]+": Pull complete\x1b[K\n\r"+two.Encoded()[:12]+": Waiting\x1b[K\n", out.String())
}

func TestNoBarsInAFile(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	b := newBars(file, false)
	b.step(engine.Step{Layer: digest.FromString("1"), What: "Waiting"})
	b.finish()
	require.NoError(t, file.Close())
	raw, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	require.Empty(t, raw)
}

// TestBarsOnATerminal: there they are, unless -q; the reference alone is on stdout.
func TestBarsOnATerminal(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	h, reg := newHome(t, nil), testenv.NewRegistry(t)
	t.Setenv("HOME", t.TempDir()) // no credentials of the user who runs the tests
	ref := reg.Host + "/me/small:1"
	h.ok(t, "tag", "small:1", ref)
	h.ok(t, "push", ref)
	h.ok(t, "rmi", ref)
	console, tty := openTerminal(t)
	screen := &screen{}
	go func() { _, _ = io.Copy(screen, console) }() // ends with the terminal
	fetch := func(args ...string) string {
		cmd := exec.Command(h.bin, append([]string{"--root", filepath.Join(t.TempDir(), "store")}, args...)...)
		cmd.Stderr = tty
		out, err := cmd.Output()
		require.NoError(t, err)
		return string(out)
	}
	require.Equal(t, ref+"\n", fetch("pull", "-q", ref))
	require.Equal(t, "fetched\n", fetch("run", "-q", "--rm", ref, "echo", "fetched"))
	require.Empty(t, screen.String())
	require.Equal(t, ref+"\n", fetch("pull", ref))
	testenv.Eventually(t, "the last bar", func() bool { return strings.Contains(screen.String(), ": Pull complete") })

	saved := filepath.Join(t.TempDir(), "saved.tar")
	h.ok(t, "save", "-o", saved, "small:1")
	cmd := exec.Command(h.bin, "--root", filepath.Join(t.TempDir(), "store"), "load", "-i", saved)
	cmd.Stderr = tty
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, "Loaded image: small:1\n", string(out))
	testenv.Eventually(t, "the bar of load", func() bool { return strings.Contains(screen.String(), ": Load complete") })
}
