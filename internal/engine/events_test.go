package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/internal/testenv"
)

// TestEventsAreBounded: many writers at once lose no line but the old ones, and there are
// never more than two files.
func TestEventsAreBounded(t *testing.T) {
	e, err := Open(filepath.Join(testenv.Dir(t), "store"))
	require.NoError(t, err)
	const writers, each = 8, 1500
	long := make([]byte, 200)
	for i := range long {
		long[i] = 'x'
	}
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				e.NoteContainer(fmt.Sprintf("%d", w), "exec_create", map[string]string{"n": fmt.Sprint(i), "pad": string(long)})
			}
		})
	}
	all.Wait()
	dir := filepath.Join(e.Root(), container.EventsName)
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, list, 2)
	for _, f := range list {
		info, err := f.Info()
		require.NoError(t, err)
		require.Less(t, info.Size(), int64(container.EventsSize+16<<10))
		require.EqualValues(t, 0o600, info.Mode())
	}
	last := map[string]int{}
	require.NoError(t, e.Events(EventOptions{Since: "1h", Until: "0s"}, func(ev Event) error {
		n := 0
		_, err := fmt.Sscan(ev.Actor.Attributes["n"], &n)
		if before, seen := last[ev.ID]; seen {
			require.Equal(t, before+1, n, "lines of writer %s are missing", ev.ID)
		}
		last[ev.ID] = n
		return err
	}))
	require.NotEmpty(t, last)
	for w, n := range last { // who was done early is dropped as a whole
		require.Equal(t, each-1, n, "the last lines of writer %s are missing", w)
	}
}

// TestEventsAreShort: what has no bound of its own is cut.
func TestEventsAreShort(t *testing.T) {
	e, err := Open(filepath.Join(testenv.Dir(t), "store"))
	require.NoError(t, err)
	e.NoteContainer("a", "exec_start: "+strings.Repeat("é", 1<<20), nil)
	e.NoteContainer("b", "create", noteLabels(map[string]string{"long": strings.Repeat("x", 1<<20)}, "image", "name"))
	info, err := os.Stat(filepath.Join(e.Root(), container.EventsName, container.NumberedLog(0)))
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(container.LongestEvent))
	var list []Event
	require.NoError(t, e.Events(EventOptions{Since: "1h", Until: "0s"}, func(ev Event) error {
		list = append(list, ev)
		return nil
	}))
	require.Len(t, list, 2)
	require.LessOrEqual(t, len(list[0].Action), container.LongestAction+len("…"))
	require.Equal(t, map[string]string{"image": "image", "name": "name"}, list[1].Actor.Attributes)
}

// TestEventsFollow: who follows hears all that happens, also over a change of files, until
// the moment that was said.
func TestEventsFollow(t *testing.T) {
	e, err := Open(filepath.Join(testenv.Dir(t), "store"))
	require.NoError(t, err)
	e.NoteContainer("before", "create", nil)
	const many = 12_000
	heard := make(chan string, 2*many)
	done := make(chan error, 1)
	go func() {
		done <- e.Events(EventOptions{Filters: []string{"event=pause"}}, func(ev Event) error {
			heard <- ev.ID
			if ev.ID == fmt.Sprint(many-1) {
				return errUntil
			}
			return nil
		})
	}()
	dir := filepath.Join(e.Root(), container.EventsName)
	ready := make(chan struct{})
	go func() { // the first one that is heard says that the other end listens
		for i := 0; ; i++ {
			e.NoteContainer(fmt.Sprintf("try %d", i), "pause", nil)
			select {
			case <-ready:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	<-heard
	close(ready)
	for i := range many {
		e.NoteContainer(fmt.Sprint(i), "pause", nil)
		if i%500 == 0 { // it keeps up, as old files are dropped
			for text := range heard {
				if text == fmt.Sprint(i) {
					break
				}
			}
		}
	}
	require.NoError(t, <-done)
	require.FileExists(t, filepath.Join(dir, container.NumberedLog(1)))
	require.NoError(t, e.Events(EventOptions{Until: "0s"}, func(Event) error { panic("nothing was asked for") }))
	begin := time.Now()
	require.NoError(t, e.Events(EventOptions{Until: "-300ms"}, func(Event) error { return nil }))
	require.GreaterOrEqual(t, time.Since(begin), 300*time.Millisecond)
}
