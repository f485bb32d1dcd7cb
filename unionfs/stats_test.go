package unionfs

import (
	"io"
	"log"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// notRequests are the methods of a file system that no request of a program is
// behind.
var notRequests = map[string]bool{"String": true, "SetDebug": true, "Init": true, "OnUnmount": true}

// TestCountedHasEveryOperation calls each method that the library may call, and
// looks that it, and nothing else, is counted, once. A method that a newer library
// has would be found here.
func TestCountedHasEveryOperation(t *testing.T) {
	kind := reflect.TypeFor[fuse.RawFileSystem]()
	named := map[string]bool{}
	for i := range kind.NumMethod() {
		name := kind.Method(i).Name
		if notRequests[name] {
			continue
		}
		c := &counted{RawFileSystem: fuse.NewDefaultRawFileSystem(), figures: newFigures(&Options{Stats: "x"})}
		method := reflect.ValueOf(c).MethodByName(name)
		var args []reflect.Value
		for k := range method.Type().NumIn() {
			arg := reflect.New(method.Type().In(k)).Elem()
			if arg.Kind() == reflect.Pointer {
				arg.Set(reflect.New(arg.Type().Elem()))
			}
			args = append(args, arg)
		}
		method.Call(args)
		got := c.operations()
		want := strings.ToLower(name)
		switch name {
		case "Writev":
			want = "write"
		case "CopyFileRange":
			want = "copy_file_range"
		}
		require.Len(t, got, 1, name)
		require.Contains(t, got, want)
		require.EqualValues(t, 1, got[want].Count, name)
		named[want] = true
	}
	require.Len(t, named, int(opCount), "a name that nothing counts under")
}

// TestStatsCountRequests compares the counts with the log of the requests.
func TestStatsCountRequests(t *testing.T) {
	for _, mode := range []Mode{Cached, Writeback, Plain} {
		t.Run(mode.String(), func(t *testing.T) {
			w := newWorld(t, 2)
			require.NoError(t, os.WriteFile(filepath.Join(w.lowers[1], "file"), []byte("some data"), 0o644))
			mkdir(t, w.lowers[1], "dir/sub")
			c := &counter{byOp: map[string]int{}}
			opt := w.options()
			opt.IO, opt.Stats, opt.Log = mode, "here", log.New(c, "", 0)
			w.mount(t, opt)
			before := countedBy(t, w.server)
			logged := c.during(func() { doEverything(t, w.mnt) })
			after := countedBy(t, w.server)
			want := map[string]uint64{}
			for op, n := range logged {
				name := strings.TrimSuffix(strings.ToLower(op), "2")
				if !notAwaited[name] && name != "interrupt" {
					want[name] += uint64(n)
				}
			}
			require.Greater(t, len(want), 15, "is the log connected? %v", want)
			for name := range after {
				if after[name] -= before[name]; after[name] == 0 {
					delete(after, name)
				}
			}
			require.Equal(t, want, after)
		})
	}
}

// notAwaited are requests that come when the kernel pleases.
var notAwaited = map[string]bool{"forget": true, "release": true, "releasedir": true}

// countedBy returns how many requests of each kind a view has counted, and checks
// that the figures of each go together.
func countedBy(t *testing.T, s *Server) map[string]uint64 {
	stats, ok := s.Stats()
	require.True(t, ok)
	counts := map[string]uint64{}
	for name, one := range stats.Operations {
		if notAwaited[name] {
			continue
		}
		counts[name] = one.Count
		sum := uint64(0)
		for _, b := range one.Histogram {
			sum += b.Count
		}
		require.Equal(t, one.Count, sum, name)
		require.LessOrEqual(t, one.P50, one.P90, name)
		require.LessOrEqual(t, one.P90, one.P99, name)
		require.LessOrEqual(t, one.P99, one.Max, name)
		require.LessOrEqual(t, one.Max, one.Total, name)
	}
	return counts
}

// doEverything does something of every kind in a view.
func doEverything(t *testing.T, mnt string) {
	in := func(name string) string { return filepath.Join(mnt, name) }
	_, err := os.ReadDir(in("dir"))
	require.NoError(t, err)
	require.ErrorIs(t, unix.Access(in("absent"), unix.R_OK), unix.ENOENT)
	data, err := os.ReadFile(in("file"))
	require.NoError(t, err)
	require.Equal(t, "some data", string(data))
	require.NoError(t, os.WriteFile(in("new"), []byte("more"), 0o644))
	require.NoError(t, os.Chmod(in("file"), 0o600))
	require.NoError(t, os.Mkdir(in("d"), 0o755))
	require.NoError(t, os.Symlink("new", in("link")))
	_, err = os.Readlink(in("link"))
	require.NoError(t, err)
	require.NoError(t, os.Link(in("new"), in("again")))
	require.NoError(t, unix.Mknod(in("fifo"), unix.S_IFIFO|0o600, 0))
	require.NoError(t, os.Rename(in("again"), in("d/moved")))
	require.NoError(t, unix.Renameat2(unix.AT_FDCWD, in("d/moved"), unix.AT_FDCWD, in("back"), unix.RENAME_NOREPLACE))
	require.NoError(t, unix.Setxattr(in("new"), "user.x", []byte("y"), 0))
	_, err = unix.Getxattr(in("new"), "user.x", nil)
	require.NoError(t, err)
	_, err = unix.Listxattr(in("new"), nil)
	require.NoError(t, err)
	require.NoError(t, unix.Removexattr(in("new"), "user.x"))
	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(mnt, &fs))
	f, err := os.OpenFile(in("new"), os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Fallocate(int(f.Fd()), 0, 0, 8192))
	_, err = f.Seek(0, unix.SEEK_HOLE)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
	d, err := os.Open(in("d"))
	require.NoError(t, err)
	require.NoError(t, d.Sync())
	require.NoError(t, d.Close())
	require.NoError(t, os.Remove(in("back")))
	require.NoError(t, os.Remove(in("d")))
}

func TestStatsOfBytesAndCopyUps(t *testing.T) {
	w := newWorld(t, 1)
	data := strings.Repeat("x", 10000)
	for _, name := range []string{"a/read", "a/changed", "a/b/moved", "gone"} {
		mkdir(t, w.lowers[0], filepath.Dir(name))
		require.NoError(t, os.WriteFile(filepath.Join(w.lowers[0], name), []byte(data), 0o644))
	}
	opt := w.options()
	opt.Stats = "there"
	w.mount(t, opt)
	f, err := os.Open(filepath.Join(w.mnt, "a/read"))
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, unix.Truncate(filepath.Join(w.mnt, "a/changed"), 5)) // up with a and its data
	require.NoError(t, os.WriteFile(filepath.Join(w.mnt, "new"), []byte("12345"), 0o644))
	require.NoError(t, os.Remove(filepath.Join(w.mnt, "gone")))

	stats, ok := w.server.Stats()
	require.True(t, ok)
	require.Equal(t, "cached", stats.IO)
	require.False(t, stats.ReadOnly)
	require.Equal(t, 1, stats.Layers)
	require.Equal(t, ByteStats{Read: 10000, Written: 5}, stats.Bytes)
	require.EqualValues(t, 2, stats.CopyUps.Count, "the directory and the file")
	require.EqualValues(t, 10000, stats.CopyUps.Bytes)
	require.EqualValues(t, 1, stats.CopyUps.Reflink+stats.CopyUps.CopyFileRange+stats.CopyUps.ReadWrite)
	require.EqualValues(t, 2, stats.Caches.UpperDirectories, "the root and a")
	require.GreaterOrEqual(t, stats.Caches.Records, 4)
	require.GreaterOrEqual(t, stats.Caches.LowerFiles, 5)
	require.Positive(t, stats.Caches.Descriptors)
	require.Greater(t, stats.Caches.DescriptorsLimit, stats.Caches.Descriptors)

	place, err := StatsPlace(w.mnt)
	require.NoError(t, err)
	require.Equal(t, "there", place)
	_, err = StatsPlace(filepath.Join(w.mnt, "a"))
	require.ErrorIs(t, err, unix.ENODATA, "only the root has it")
	names := make([]byte, 1024)
	n, err := unix.Listxattr(w.mnt, names)
	require.NoError(t, err)
	require.NotContains(t, string(names[:n]), "varve")
}

// TestNoStats: who does not ask for figures has nothing in the way.
func TestNoStats(t *testing.T) {
	w := newWorld(t, 1)
	w.mount(t, w.options())
	require.IsType(t, &FS{}, w.server.fs.raw())
	stats, ok := w.server.Stats()
	require.True(t, ok)
	require.Nil(t, stats.Operations)
	_, err := StatsPlace(w.mnt)
	require.ErrorIs(t, err, unix.ENODATA)
	w.unmount(t)
}

// TestStatsWhileUnmounting asks a view on an index, whose memory goes with it.
func TestStatsWhileUnmounting(t *testing.T) {
	w := newWorld(t, 1)
	opt := w.options()
	opt.Stats = "x"
	indexLayers(t, &opt, filepath.Join(filepath.Dir(w.mnt), "index"))
	w.mount(t, opt)
	s := w.server
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for ok := true; ok; {
				_, ok = s.Stats()
			}
		})
	}
	w.unmount(t)
	asking.Wait()
}

func TestBuckets(t *testing.T) {
	last := -1
	for k := range bucketCount {
		end := bucketEnd(k)
		require.Equal(t, k, bucketOf(end), "its end is in it")
		if k < bucketCount-1 {
			require.Equal(t, k+1, bucketOf(end+1), "what is longer is in the next")
		}
		require.Greater(t, int(end), last)
		if last > 0 {
			require.LessOrEqual(t, 4*int(end), 5*(last+1), "a quarter wide at most")
		}
		last = int(end)
	}
	require.Equal(t, bucketCount-1, bucketOf(math.MaxUint64))
	require.Greater(t, time.Duration(last), 2*time.Minute)
}

func TestPercentiles(t *testing.T) {
	var o opFigures
	require.Equal(t, OpStats{}, o.stats())
	for ns := range 1000 {
		o.add(time.Duration(ns+1), ns%10 == 0)
	}
	o.add(-5, false) // a clock that went back is no time
	s := o.stats()
	require.EqualValues(t, 1001, s.Count)
	require.EqualValues(t, 100, s.Errors)
	require.EqualValues(t, 1000, s.Max)
	require.EqualValues(t, 500500, s.Total)
	require.InEpsilon(t, 500, s.P50, 0.25)
	require.InEpsilon(t, 900, s.P90, 0.25)
	require.EqualValues(t, 1000, s.P99, "no more than the longest")
}

// BenchmarkCounted is what counting and timing adds to a request, from one thread
// and from several that do the same.
func BenchmarkCounted(b *testing.B) {
	def := fuse.NewDefaultRawFileSystem()
	for name, raw := range map[string]fuse.RawFileSystem{
		"without": def, "with": &counted{RawFileSystem: def, figures: newFigures(&Options{Stats: "x"})},
	} {
		b.Run(name, func(b *testing.B) {
			in, out := &fuse.GetAttrIn{}, &fuse.AttrOut{}
			b.ReportAllocs()
			for b.Loop() {
				raw.GetAttr(nil, in, out)
			}
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				in, out := &fuse.GetAttrIn{}, &fuse.AttrOut{}
				for pb.Next() {
					raw.GetAttr(nil, in, out)
				}
			})
		})
	}
}

// BenchmarkMounted compares a request of two mounted views, turn by turn, one of
// which is counted: the attributes of a file whose answer the kernel may not keep.
func BenchmarkMounted(b *testing.B) {
	testenv.FUSE(b)
	var paths []string
	for _, stats := range []string{"", "x"} {
		dir := b.TempDir()
		for _, name := range []string{"mnt", "low"} {
			require.NoError(b, os.Mkdir(filepath.Join(dir, name), 0o755))
		}
		require.NoError(b, os.WriteFile(filepath.Join(dir, "low/file"), nil, 0o644))
		s, err := Mount(filepath.Join(dir, "mnt"), Options{Lowers: []Lower{{Path: filepath.Join(dir, "low")}}, Stats: stats, Validity: -1})
		require.NoError(b, err)
		defer func() { require.NoError(b, s.Unmount()) }()
		paths = append(paths, filepath.Join(dir, "mnt/file"))
	}
	var took [2]time.Duration
	var st unix.Stat_t
	for turn := 0; b.Loop(); turn++ {
		for k := range paths {
			which := (k + turn) % 2
			began := time.Now()
			for range 10 {
				if err := unix.Stat(paths[which], &st); err != nil {
					b.Fatal(err)
				}
			}
			took[which] += time.Since(began)
		}
	}
	b.ReportMetric(float64(took[0].Nanoseconds())/float64(10*b.N), "ns/plain")
	b.ReportMetric(float64(took[1].Nanoseconds())/float64(10*b.N), "ns/counted")
	b.ReportMetric(float64(took[1])/float64(took[0]), "ratio")
}
