package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/engine"
	"github.com/varvefs/varve/layerdb"
)

func TestListFormats(t *testing.T) {
	rows := []historyRow{{ID: "1", Size: "2B", CreatedBy: "<sh>"}, {ID: "22", Size: "3B"}}
	for format, want := range map[string]string{
		"":                      "IMAGE     SIZE\n1         2B\n22        3B\n",
		"{{.ID}}":               "1\n22\n",
		`{{.ID}}\t{{.Size}}`:    "1\t2B\n22\t3B\n",
		"table {{.Size}}":       "SIZE\n2B\n3B\n",
		"{{json .CreatedBy}}":   "\"<sh>\"\n\"\"\n",
		"{{upper .CreatedBy}}.": "<SH>.\n.\n",
	} {
		var out bytes.Buffer
		require.NoError(t, list[historyRow]{table: "{{.ID}}\t{{.Size}}", format: format}.print(&out, rows), format)
		require.Equal(t, want, out.String(), format)
	}
	var out bytes.Buffer
	require.NoError(t, list[historyRow]{format: "json"}.print(&out, rows[:1]))
	require.Equal(t, `{"ID":"1","CreatedSince":"","CreatedAt":"","CreatedBy":"<sh>","Size":"2B","Comment":""}`+"\n", out.String())
	for _, bad := range []string{"{{", "{{.Nonsense}}", "table {{.Nonsense}}"} {
		require.ErrorContains(t, list[historyRow]{format: bad}.print(&out, rows), "--format", bad)
	}
}

func TestEllipsis(t *testing.T) {
	require.Equal(t, "short", ellipsis("short", 5))
	require.Equal(t, "longe…", ellipsis("longer text", 6))
	require.Equal(t, "öäü…", ellipsis("öäüßx", 4))
}

func TestStatus(t *testing.T) {
	ago := time.Now().Add(-2 * time.Hour)
	for want, s := range map[string]container.State{
		"Created":                {Status: container.Created},
		"Up 2 hours":             {Status: container.Running, Started: ago},
		"Exited (3) 2 hours ago": {Status: container.Exited, ExitCode: 3, Finished: ago},
		"Exited (137)":           {Status: container.Exited, ExitCode: 137},
	} {
		require.Equal(t, want, status(s))
	}
}

func TestPsRows(t *testing.T) {
	c := engine.ContainerInfo{Container: layerdb.Container{
		ID: "0123456789abcdef", Name: "n", ImageName: "i:1", Command: []string{"sh", "-c", `echo "a long line of text"`}}}
	rows := psRows([]engine.ContainerInfo{c}, false)
	require.Equal(t, "0123456789ab", rows[0].ID)
	require.Equal(t, `"sh -c 'echo \"a long…"`, rows[0].Command)
	rows = psRows([]engine.ContainerInfo{c}, true)
	require.Equal(t, c.ID, rows[0].ID)
	require.Equal(t, `"sh -c 'echo \"a long line of text\"'"`, rows[0].Command)
}

func TestExitErrors(t *testing.T) {
	inner := errors.New("inner")
	err := fmt.Errorf("outer: %w", exitError{7, inner})
	var exit exitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 7, exit.code)
	require.ErrorIs(t, err, inner)
}

// calls counts the calls of Write.
type calls int

func (c *calls) Write(p []byte) (int, error) { *c++; return len(p), nil }

// TestListWritesOnce: each call is a system call when a list goes to stdout.
func TestListWritesOnce(t *testing.T) {
	type row struct {
		Name string `title:"NAME"`
		Size string `title:"SIZE"`
	}
	for _, format := range []string{"", "json", "{{.Name}} {{.Size}}"} {
		var n calls
		l := list[row]{table: "{{.Name}}\t{{.Size}}", format: format}
		require.NoError(t, l.print(&n, make([]row, 100)))
		require.EqualValues(t, 1, n, format)
	}
}

// TestVerbs: each verb is found by its name, alone, and in the list of all.
func TestVerbs(t *testing.T) {
	c := &cli{}
	all := c.command()
	for name, verb := range c.verbs() {
		require.Equal(t, name, verb().Name())
		found, _, err := all.Find([]string{name})
		require.NoError(t, err)
		require.Equal(t, name, found.Name())
		require.Len(t, (&cli{args: []string{"--root", "run", name}}).command().Commands(), 1)
	}
	require.Len(t, all.Commands(), len(c.verbs()))
	for text, want := range map[string]string{
		"": "", "run x": "run", "--root d ps": "ps", "--root=d ps": "ps", "--root": "", "-h": "", "help run": "help", "--help run": "run",
	} {
		require.Equal(t, want, verbOf(strings.Fields(text)), text)
	}
}
