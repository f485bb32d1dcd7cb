package engine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/container"
)

func openTestLog(t *testing.T, opt container.LogOptions) (l *container.LogFile, dir string) {
	t.Helper()
	dir = t.TempDir()
	fd, err := at.OpenDir(at.CWD, dir)
	require.NoError(t, err)
	l, err = container.OpenLog(fd, opt)
	require.NoError(t, err)
	t.Cleanup(func() {
		l.Close()
		require.NoError(t, unix.Close(fd))
	})
	return l, dir
}

// TestLogLinesAreJSON compares with the standard library, which docker uses.
func TestLogLinesAreJSON(t *testing.T) {
	for _, text := range []string{
		"plain\n", "", "\x00\x01\x1f\x7f\n", `"quotes" and \back\slashes`, "<html> & more", "tab\tcr\r\n", "ä€𝄞\n",
		"bad \xff\xc3 utf-8", "\u2028\u2029", strings.Repeat("long ", 1000),
	} {
		now := time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC)
		line := container.AppendLogLine(nil, []byte(text), container.StreamErr, now.AppendFormat(nil, time.RFC3339Nano))
		var entry LogEntry
		require.NoError(t, json.Unmarshal(line, &entry), "%q", line)
		raw, err := json.Marshal(text)
		require.NoError(t, err)
		var want string
		require.NoError(t, json.Unmarshal(raw, &want))
		require.Equal(t, LogEntry{want, "stderr", now}, entry)
	}
}

func TestLogKeepsLines(t *testing.T) {
	l, dir := openTestLog(t, container.LogOptions{})
	now := time.Now()
	l.Write(container.StreamOut, []byte("one\ntw"), now)
	l.Write(container.StreamErr, []byte("other\n"), now)
	l.Write(container.StreamOut, []byte("o\nend"), now)
	l.Write(container.StreamOut, []byte(strings.Repeat("x", 3*container.LongestLogLine)), now)
	l.Finish(container.StreamOut, now)
	var got []string
	r := &logReader{dir: dir, fn: func(e LogEntry) error {
		got = append(got, fmt.Sprintf("%s %s %d", e.Stream, strings.TrimSpace(e.Log)[:3], len(e.Log)))
		return nil
	}}
	newest, err := r.all(1, -1)
	require.NoError(t, err)
	require.NoError(t, newest.file.Close())
	require.Equal(t, []string{"stdout one 4", "stderr oth 6", "stdout two 4", "stdout end 16384", "stdout xxx 16384",
		"stdout xxx 16384", "stdout xxx 3"}, got)
}

func TestLogRotates(t *testing.T) {
	l, dir := openTestLog(t, container.LogOptions{MaxSize: 1000, MaxFiles: 3})
	for n := range 100 {
		l.Write(container.StreamOut, fmt.Appendf(nil, "line %d\n", n), time.Now())
	}
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, list, 3)
	for _, e := range list {
		info, err := e.Info()
		require.NoError(t, err)
		require.LessOrEqual(t, info.Size(), int64(1000))
		require.Equal(t, os.FileMode(0o600), info.Mode())
	}
	var got []string
	r := &logReader{dir: dir, fn: func(e LogEntry) error { got = append(got, e.Log); return nil }}
	newest, err := r.all(3, 5)
	require.NoError(t, err)
	require.Equal(t, []string{"line 95\n", "line 96\n", "line 97\n", "line 98\n", "line 99\n"}, got)

	// Who follows misses nothing that is still there, however often it is rotated.
	got = nil
	for n := range 20 {
		l.Write(container.StreamOut, fmt.Appendf(nil, "more %d\n", n), time.Now())
	}
	newest, err = r.more(newest)
	require.NoError(t, err)
	require.Len(t, got, 20)
	require.NoError(t, newest.file.Close())
}

// TestLogFollowsNoLink: what is written goes to no other file.
func TestLogFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	canary := filepath.Join(t.TempDir(), "canary")
	require.NoError(t, os.WriteFile(canary, []byte("as it was"), 0o600))
	require.NoError(t, os.Symlink(canary, filepath.Join(dir, container.LogName)))
	fd, err := at.OpenDir(at.CWD, dir)
	require.NoError(t, err)
	_, err = container.OpenLog(fd, container.LogOptions{})
	require.ErrorIs(t, err, unix.ELOOP)
	require.NoError(t, unix.Close(fd))
	raw, err := os.ReadFile(canary)
	require.NoError(t, err)
	require.Equal(t, "as it was", string(raw))
}
