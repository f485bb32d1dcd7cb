package unionfs

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/copyup"
)

// Stats is what a view has done so far, and what it keeps. The names of its fields
// in JSON stay as they are; new ones may come.
type Stats struct {
	// IO is the mode, by its name.
	IO string `json:"io"`
	// Transport is how requests arrive, by its name.
	Transport string `json:"transport"`
	// ReadOnly says that there is no upper.
	ReadOnly bool `json:"read_only"`
	// Layers below the upper, and whether they are read from an index.
	Layers  int  `json:"layers"`
	Indexed bool `json:"indexed"`
	// Operations are the requests that came, by the name that FUSE has for them, in
	// small letters; "forget" counts the files that the kernel let go of, however
	// many it names at once. Nil without Options.Stats.
	Operations map[string]OpStats `json:"operations"`
	// Bytes that went through the server. In Passthrough the kernel reads and writes
	// by itself, and what it has cached it does not ask for.
	Bytes ByteStats `json:"bytes"`
	// CopyUps are the files that were brought up.
	CopyUps CopyUpStats `json:"copy_ups"`
	// Caches are what is kept in memory, and open.
	Caches CacheStats `json:"caches"`
}

// OpStats is one kind of request. Times are nanoseconds from the moment that the
// request was read until its answer was ready; the way through the kernel is not in
// them. They are kept in buckets whose bounds lie a quarter of a power of two apart,
// so a percentile may be up to a quarter too high; the longest is exact.
type OpStats struct {
	Count uint64 `json:"count"`
	// Errors are the answers that are an errno, also one that is meant to be, such as
	// ENOSYS to OPEN, after which the kernel does not ask again.
	Errors uint64 `json:"errors"`
	Total  uint64 `json:"total_ns"`
	P50    uint64 `json:"p50_ns"`
	P90    uint64 `json:"p90_ns"`
	P99    uint64 `json:"p99_ns"`
	Max    uint64 `json:"max_ns"`
	// Histogram has the buckets that are not empty, the shortest times first.
	Histogram []Bucket `json:"histogram"`
}

// Bucket counts the requests that took at most UpTo nanoseconds and longer than the
// bucket before says.
type Bucket struct {
	UpTo  uint64 `json:"up_to_ns"`
	Count uint64 `json:"count"`
}

// ByteStats are bytes of files: read, written, and copied by copy_file_range.
type ByteStats struct {
	Read    uint64 `json:"read"`
	Written uint64 `json:"written"`
	Copied  uint64 `json:"copied"`
}

// CopyUpStats are files that were brought up, of any kind, and the bytes of data
// in them. The other fields say how the data of how many files came: shared with the
// layer, copied by the kernel, or read and written. Files without data are in none
// of them.
type CopyUpStats struct {
	Count         uint64 `json:"count"`
	Bytes         uint64 `json:"bytes"`
	Reflink       uint64 `json:"reflink"`
	CopyFileRange uint64 `json:"copy_file_range"`
	ReadWrite     uint64 `json:"read_write"`
}

// CacheStats are numbers of things.
type CacheStats struct {
	Descriptors      int `json:"descriptors"`       // kept open for files and directories
	DescriptorsLimit int `json:"descriptors_limit"` // above it the least recently used are closed
	Records          int `json:"records"`           // files of the upper that the kernel knows, and changed ones of layers
	UpperDirectories int `json:"upper_directories"` // of the records
	LowerFiles       int `json:"lower_files"`       // of the layers: those seen so far, or all with an index
}

// Stats returns what the view has done so far; ok is false when it is served no
// more. It may be called at any time, from several goroutines.
func (s *Server) Stats() (stats Stats, ok bool) {
	s.closing.RLock()
	defer s.closing.RUnlock()
	if s.closed {
		return Stats{}, false
	}
	fs := s.fs
	stats = Stats{
		IO: fs.opt.IO.String(), Transport: s.transport.String(), ReadOnly: fs.readOnly(), Layers: len(fs.opt.Lowers), Indexed: fs.opt.Index != "",
		CopyUps: fs.copyUps.stats(), Caches: fs.cacheStats(),
	}
	if f := fs.figures; f != nil {
		stats.Operations = f.operations()
		stats.Bytes = ByteStats{f.read.Load(), f.written.Load(), f.copied.Load()}
	}
	return stats, true
}

// figures are what is counted of requests. All of it is atomic: nothing waits, and
// nothing is allocated, for what nobody may ever ask for.
type figures struct {
	began                 time.Time
	ops                   [opCount]opFigures
	read, written, copied atomic.Uint64
}

// opFigures are the requests of one kind. How many there were is the sum of the
// buckets.
type opFigures struct {
	errors, total, max atomic.Uint64
	buckets            [bucketCount]atomic.Uint64
}

// newFigures returns nil if nobody wants them.
func newFigures(opt *Options) *figures {
	if opt.Stats == "" {
		return nil
	}
	return &figures{began: time.Now()}
}

// now is a moment, as the time since the view was made: what reads the monotonic
// clock alone, and not that of the day.
func (f *figures) now() time.Duration { return time.Since(f.began) }

func (o *opFigures) add(took time.Duration, failed bool) {
	ns := uint64(max(took, 0))
	o.buckets[bucketOf(ns)].Add(1)
	o.total.Add(ns)
	if failed {
		o.errors.Add(1)
	}
	for most := o.max.Load(); ns > most && !o.max.CompareAndSwap(most, ns); {
		most = o.max.Load()
	}
}

// Times up to two minutes have a bucket, four for each power of two; longer ones,
// of a lock that was waited for, share the last.
const (
	longestBits = 37
	bucketCount = 4 * (longestBits - 1)
)

func bucketOf(ns uint64) int {
	length := bits.Len64(ns)
	switch {
	case length < 3:
		return int(ns)
	case length > longestBits:
		return bucketCount - 1
	}
	return 4*(length-2) + int(ns>>(length-3)&3)
}

// bucketEnd is the longest time in a bucket.
func bucketEnd(k int) uint64 {
	if k < 4 {
		return uint64(k)
	}
	return uint64(5+k%4)<<(k/4-1) - 1
}

// operations are the kinds of requests that came.
func (f *figures) operations() map[string]OpStats {
	list := map[string]OpStats{}
	for k := range f.ops {
		if one := f.ops[k].stats(); one.Count > 0 {
			list[opNames[k]] = one
		}
	}
	return list
}

func (o *opFigures) stats() (s OpStats) {
	for k := range o.buckets {
		if n := o.buckets[k].Load(); n > 0 {
			s.Histogram = append(s.Histogram, Bucket{bucketEnd(k), n})
			s.Count += n
		}
	}
	s.Errors, s.Total, s.Max = o.errors.Load(), o.total.Load(), o.max.Load()
	s.P50, s.P90, s.P99 = s.percentile(50), s.percentile(90), s.percentile(99)
	return s
}

// percentile is the time that so many of a hundred requests did not exceed; 0 if
// there was none.
func (s *OpStats) percentile(percent uint64) uint64 {
	seen := uint64(0)
	for _, b := range s.Histogram {
		if seen += b.Count; seen*100 >= s.Count*percent {
			return min(b.UpTo, s.Max)
		}
	}
	return s.Max
}

// copyUps counts the files that were brought up. It is kept always: it costs
// nothing beside what it counts.
type copyUps struct{ count, bytes, reflink, copyFileRange, readWrite atomic.Uint64 }

func (c *copyUps) add(staged *copyup.Staged) {
	c.count.Add(1)
	c.addData(staged.Copied())
}

// addData counts data, also that of a file whose metadata came before.
func (c *copyUps) addData(way copyup.Way, bytes int64) {
	c.bytes.Add(uint64(bytes))
	switch way {
	case copyup.Reflink:
		c.reflink.Add(1)
	case copyup.CopyFileRange:
		c.copyFileRange.Add(1)
	case copyup.ReadWrite:
		c.readWrite.Add(1)
	}
}

func (c *copyUps) stats() CopyUpStats {
	return CopyUpStats{c.count.Load(), c.bytes.Load(), c.reflink.Load(), c.copyFileRange.Load(), c.readWrite.Load()}
}

func (fs *FS) cacheStats() CacheStats {
	c := CacheStats{LowerFiles: fs.tree.size()}
	c.Descriptors, c.DescriptorsLimit = fs.fds.size()
	c.Records, c.UpperDirectories = fs.nodes.size()
	return c
}

func (c *fdCache) size() (open, limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byKey), c.max
}

// size counts the records, and those of directories of the upper.
func (t *nodeTable) size() (all, dirs int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	count := func(n *node) {
		all++
		if n.isDir() && n.upper.Load() {
			dirs++
		}
	}
	for _, n := range t.byID {
		count(n)
	}
	for _, page := range t.low {
		for k := range page {
			if n := page[k].node.Load(); n != nil {
				count(n)
			}
		}
	}
	return all, dirs
}

// statsAttr is an attribute of the root of a view that is counted: what
// Options.Stats says. It is not listed.
const statsAttr = "user.varve.stats"

// StatsPlace returns what Options.Stats of the view says that is mounted at path, by
// whatever process; ENODATA if that is not the root of a view that is counted.
func StatsPlace(path string) (string, error) {
	value := make([]byte, unix.PathMax)
	n, err := unix.Getxattr(path, statsAttr, value)
	if err != nil {
		return "", err
	}
	return string(value[:n]), nil
}

// isStatsAttr tells whether a request asks for statsAttr of the root.
func isStatsAttr(header *fuse.InHeader, attr string) bool {
	return header.NodeId == fuse.FUSE_ROOT_ID && attr == statsAttr
}
