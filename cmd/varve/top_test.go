package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/engine"
)

// TestPsCells: times, states and command lines are written as ps writes them.
func TestPsCells(t *testing.T) {
	now := time.Date(2026, 3, 5, 12, 0, 0, 0, time.Local)
	m := &psMachine{now: now}
	p := &engine.ContainerProcess{State: 'S', Started: now.Add(-2 * time.Hour), CPU: time.Hour}
	require.Equal(t, "10:00", m.since(p))
	require.InDelta(t, 0.5, m.share(p), 0.001)
	p.Started = now.AddDate(0, 0, -3)
	require.Equal(t, "Mar02", m.since(p))
	p.Started = now.AddDate(-1, 0, 0)
	require.Equal(t, "2025", m.since(p))
	require.Equal(t, "01:00:00", clock(p.CPU))
	for d, want := range map[time.Duration]string{65 * time.Second: "01:05", 2*time.Hour + 3*time.Second: "02:00:03", 50 * time.Hour: "2-02:00:00"} {
		require.Equal(t, want, elapsed(d))
	}
	require.Equal(t, "S", stat(p))
	require.Equal(t, "RNsl+", stat(&engine.ContainerProcess{State: 'R', Nice: 5, Leader: true, Threads: 2, Front: true}))
	require.Equal(t, "[x] <defunct>", commandLine(&engine.ContainerProcess{Name: "x", State: 'Z'}))
	require.Equal(t, "a b??[0m", printable("a b\n\x1b[0m"))
}
