package bench_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/index"
	"github.com/varvefs/varve/unionfs"
)

// A chain for the index: as many files as a Debian root has, ten to a directory,
// spread over the layers, each of which has the directories that lead to its own.
const (
	indexFiles    = 13000
	indexPerDir   = 10
	indexDirDepth = 3
)

// indexPath is the path of a file: directories of 11 children, names that are
// as long as those of a system.
func indexPath(file int) string {
	path, dir := "", file/indexPerDir
	for range indexDirDepth {
		path = filepath.Join(fmt.Sprintf("directory%02d", dir%11), path)
		dir /= 11
	}
	return filepath.Join(path, fmt.Sprintf("file-%05d.so", file))
}

// newChain makes layers of directories below a place in memory.
func newChain(b *testing.B, count, files int) []index.Layer {
	b.Helper()
	base, err := os.MkdirTemp("/dev/shm", "varve-bench-")
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, os.RemoveAll(base)) })
	var layers []index.Layer
	for i := range count {
		root := filepath.Join(base, strconv.Itoa(i))
		require.NoError(b, os.Mkdir(root, 0o755))
		layers = append(layers, index.Layer{Path: root, ID: strconv.Itoa(i)})
	}
	for file := range files {
		path := filepath.Join(layers[file%count].Path, indexPath(file))
		require.NoError(b, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(b, os.WriteFile(path, nil, 0o644))
	}
	return layers
}

// openIndex builds and opens the index of a chain.
func openIndex(b *testing.B, layers []index.Layer) *index.Index {
	b.Helper()
	path := filepath.Join(layers[0].Path, "..", "index")
	require.NoError(b, index.Build(path, layers))
	var ids []string
	for _, l := range layers {
		ids = append(ids, l.ID)
	}
	x, err := index.Open(path, ids)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, x.Close()) })
	info, err := os.Stat(path)
	require.NoError(b, err)
	b.Logf("%d layers, %d inodes: %.1f bytes each", len(layers), x.Len(), float64(info.Size())/float64(x.Len()))
	return x
}

// lookedUp is a name in a directory.
type lookedUp struct {
	dir  uint32
	name string
}

// allNames lists every name of the index in a random order, the same each time.
func allNames(x *index.Index, suffix string) (list []lookedUp) {
	for n := range uint32(x.Len()) {
		for name := range x.List(n) {
			list = append(list, lookedUp{n, string(name) + suffix})
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for i := range list { // the bytes in this order, too: what is measured is the index
		list[i].name = strings.Clone(list[i].name)
	}
	return list
}

// BenchmarkIndexLookup looks random names up: those that are there, and as many
// that are not. The 200,000 files do not fit in the processor's caches.
func BenchmarkIndexLookup(b *testing.B) {
	for _, size := range []struct{ layers, files int }{{1, indexFiles}, {8, indexFiles}, {64, indexFiles}, {500, indexFiles}, {8, 200000}} {
		x := openIndex(b, newChain(b, size.layers, size.files))
		for what, suffix := range map[string]string{"hit": "", "miss": "~"} {
			list := allNames(x, suffix)
			b.Run(fmt.Sprintf("%s/layers=%d/files=%d", what, size.layers, size.files), func(b *testing.B) {
				b.ReportAllocs()
				k := 0
				for b.Loop() {
					if _, ok := x.Lookup(list[k].dir, list[k].name); ok != (suffix == "") {
						b.Fatalf("%s in %d: %v", list[k].name, list[k].dir, ok)
					}
					if k++; k == len(list) {
						k = 0
					}
				}
			})
		}
	}
}

// BenchmarkIndexStat reads attributes of random files.
func BenchmarkIndexStat(b *testing.B) {
	x := openIndex(b, newChain(b, 8, indexFiles))
	order := rand.New(rand.NewPCG(1, 2)).Perm(x.Len())
	var st unix.Stat_t
	b.ReportAllocs()
	k := 0
	for b.Loop() {
		if x.Stat(uint32(order[k]), &st); st.Nlink == 0 {
			b.Fatal("no links")
		}
		if k++; k == len(order) {
			k = 0
		}
	}
}

// BenchmarkIndexBuild builds the index of a chain.
func BenchmarkIndexBuild(b *testing.B) {
	for _, count := range []int{1, 8, 64, 500} {
		layers := newChain(b, count, indexFiles)
		path := filepath.Join(layers[0].Path, "..", "index")
		b.Run(fmt.Sprintf("layers=%d", count), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, index.Build(path, layers))
			}
		})
	}
}

// BenchmarkIndexOpen maps an index and checks all of it.
func BenchmarkIndexOpen(b *testing.B) {
	for _, files := range []int{indexFiles, 200000} {
		layers := newChain(b, 8, files)
		path := filepath.Join(layers[0].Path, "..", "index")
		require.NoError(b, index.Build(path, layers))
		ids := []string{"0", "1", "2", "3", "4", "5", "6", "7"}
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				x, err := index.Open(path, ids)
				require.NoError(b, err)
				require.NoError(b, x.Close())
			}
		})
	}
}

// BenchmarkMergeAll is what the index saves: the same chain merged by the lazy
// tree, once, with attributes.
func BenchmarkMergeAll(b *testing.B) {
	for _, count := range []int{1, 8, 64, 500} {
		var lowers []unionfs.Lower
		for _, l := range newChain(b, count, indexFiles) {
			lowers = append(lowers, unionfs.Lower{Path: l.Path})
		}
		b.Run(fmt.Sprintf("layers=%d", count), func(b *testing.B) {
			for b.Loop() {
				tree, err := unionfs.OpenTree(lowers)
				require.NoError(b, err)
				require.NoError(b, tree.Walk(func(unionfs.Entry) error { return nil }))
				tree.Close()
			}
		})
	}
}
