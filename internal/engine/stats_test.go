package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/unionfs"
)

// servedStats mounts a small view whose figures are served at the path returned.
func servedStats(t *testing.T) (server *unionfs.Server, mnt, path string) {
	t.Helper()
	testenv.FUSE(t)
	testenv.CheckLeaks(t)
	dir := t.TempDir()
	mnt, path = filepath.Join(dir, "mnt"), filepath.Join(dir, "s")
	for _, d := range []string{"mnt", "low"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "low/file"), []byte("x"), 0o644))
	socket, err := listenStats(path)
	require.NoError(t, err)
	server, err = unionfs.Mount(mnt, unionfs.Options{Lowers: []unionfs.Lower{{Path: filepath.Join(dir, "low")}}, Stats: path})
	require.NoError(t, err)
	served := make(chan struct{})
	go func() { socket.serve(server, mnt); close(served) }()
	t.Cleanup(func() {
		if _, ok := server.Stats(); ok {
			require.NoError(t, server.Unmount())
		}
		require.NoError(t, socket.close())
		<-served
		require.NoFileExists(t, path)
	})
	return server, mnt, path
}

func TestReadStats(t *testing.T) {
	_, mnt, path := servedStats(t)
	_, err := os.ReadFile(filepath.Join(mnt, "file"))
	require.NoError(t, err)
	for _, place := range []string{mnt, path} {
		s, err := ReadStats(place)
		require.NoError(t, err, place)
		require.Equal(t, mnt, s.MountPoint)
		require.Equal(t, os.Getpid(), s.PID)
		require.True(t, s.ReadOnly)
		require.Equal(t, 1, s.Layers)
		require.EqualValues(t, 1, s.Operations["lookup"].Count)
		require.EqualValues(t, 1, s.Bytes.Read)
		require.Positive(t, s.Uptime)
		require.Positive(t, s.Memory.Heap)
		require.GreaterOrEqual(t, s.Memory.Go, s.Memory.Heap)
		require.Positive(t, s.Memory.Resident)
		require.Greater(t, s.Goroutines, 1)
	}
	_, err = ReadStats(filepath.Dir(mnt))
	require.ErrorContains(t, err, "no view with figures")
	_, err = ReadStats(filepath.Join(mnt, "file"))
	require.ErrorContains(t, err, "neither a socket nor a mount point")
	_, err = ReadStats(filepath.Join(mnt, "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestStatsDocument: scripts hold on to these names.
func TestStatsDocument(t *testing.T) {
	_, mnt, path := servedStats(t)
	_, err := os.ReadDir(mnt)
	require.NoError(t, err)
	raw, err := ReadStatsJSON(path)
	require.NoError(t, err)
	require.True(t, bytes.HasSuffix(raw, []byte("}\n")))
	var all map[string]any
	require.NoError(t, json.Unmarshal(raw, &all))
	keys := func(value any) (list string) {
		for _, key := range slices.Sorted(maps.Keys(value.(map[string]any))) {
			list += key + " "
		}
		return list
	}
	require.EqualValues(t, 1, all["version"])
	require.Equal(t, "bytes caches copy_ups goroutines indexed io layers memory mount_point operations pid read_only started transport uptime_seconds version ", keys(all))
	require.Equal(t, "copied read written ", keys(all["bytes"]))
	require.Equal(t, "bytes copy_file_range count read_write reflink ", keys(all["copy_ups"]))
	require.Equal(t, "descriptors descriptors_limit lower_files records upper_directories ", keys(all["caches"]))
	require.Equal(t, "go_bytes heap_bytes resident_bytes ", keys(all["memory"]))
	opendir := all["operations"].(map[string]any)["opendir"]
	require.Equal(t, "count errors histogram max_ns p50_ns p90_ns p99_ns total_ns ", keys(opendir))
	require.Equal(t, "count up_to_ns ", keys(opendir.(map[string]any)["histogram"].([]any)[0]))
}

// TestStatsManyClients: a hundred at once, and as many that connect and do not read,
// keep nobody from an answer, and the view goes all the same.
func TestStatsManyClients(t *testing.T) {
	server, mnt, path := servedStats(t)
	var silent []net.Conn
	for range 100 {
		c, err := net.Dial("unix", path)
		require.NoError(t, err)
		silent = append(silent, c)
	}
	errs := make([]error, 100)
	var clients sync.WaitGroup
	for i := range errs {
		clients.Go(func() {
			s, err := ReadStats(path)
			if err == nil && s.MountPoint != mnt {
				err = fmt.Errorf("of %q", s.MountPoint)
			}
			errs[i] = err
		})
	}
	clients.Wait()
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, server.Unmount(), "with clients connected")
	for _, c := range silent { // what was answered can be read still
		raw, err := io.ReadAll(c)
		require.NoError(t, err)
		require.True(t, json.Valid(raw))
		require.NoError(t, c.Close())
	}
	_, err := ReadStats(path)
	require.ErrorContains(t, err, "just unmounted")
}

func TestListenStatsRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("precious"), 0o600))
	live, err := listenStats(filepath.Join(dir, "live"))
	require.NoError(t, err)
	for path, says := range map[string]string{
		"/" + strings.Repeat("x", longestSocket): "at most 107",
		filepath.Join(dir, "absent/s"):           "no such file or directory",
		filepath.Join(file, "s"):                 "not a directory",
		filepath.Join(dir, "live"):               "another server answers",
		file:                                     "something else is there",
		dir:                                      "something else is there",
		"/proc/s":                                "", // whatever it says of a place where nothing can be made
	} {
		_, err := listenStats(path)
		require.ErrorContains(t, err, fmt.Sprintf("stats socket %q", path))
		require.ErrorContains(t, err, says)
	}
	require.FileExists(t, file)
	require.NoError(t, live.close())
	none, err := listenStats("")
	require.NoError(t, err)
	require.NoError(t, none.close())
}

// TestListenStatsLongest: what the limit lets through, the kernel takes.
func TestListenStatsLongest(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "s")
	require.NoError(t, err)
	defer func() { require.NoError(t, os.RemoveAll(dir)) }()
	s, err := listenStats(filepath.Join(dir, strings.Repeat("x", longestSocket-len(dir)-1)))
	require.NoError(t, err)
	require.NoError(t, s.close())
}

// TestListenStatsStale: the socket of a dead server is replaced, and only the owner
// may connect.
func TestListenStatsStale(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	path := filepath.Join(t.TempDir(), "s")
	dead, err := listenStats(path)
	require.NoError(t, err)
	require.NoError(t, dead.listener.Close()) // as a kill leaves it
	_, err = ReadStats(path)
	require.ErrorContains(t, err, "its server is gone")
	next, err := listenStats(path)
	require.NoError(t, err)
	info, err := os.Lstat(path)
	require.NoError(t, err)
	require.Equal(t, os.ModeSocket|0o600, info.Mode())
	require.NoError(t, next.close())
	require.NoFileExists(t, path)
}

// TestListenStatsReplaced: a server whose socket somebody has removed leaves alone
// the one that is there now.
func TestListenStatsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := listenStats(path)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	second, err := listenStats(path)
	require.NoError(t, err)
	require.NoError(t, first.close())
	require.FileExists(t, path)
	require.NoError(t, second.close())
	require.NoError(t, os.RemoveAll(path))
}

// TestReadStatsOfOthers: what is no document, and one of another version.
func TestReadStatsOfOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for text, says := range map[string]string{"hello": "no JSON document", `{"version":2}`: "version 2", "": "just unmounted"} {
		l, err := net.Listen("unix", path)
		require.NoError(t, err)
		go func() {
			c, err := l.Accept()
			if err == nil {
				_, _ = io.WriteString(c, text) // the reader tells
				_ = c.Close()
			}
		}()
		_, err = ReadStats(path)
		require.ErrorContains(t, err, says)
		require.NoError(t, l.Close())
	}
}
