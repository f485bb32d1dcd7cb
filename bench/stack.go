package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Of the files of a tree, one of so many has an older version below it, or a
// neighbour that a layer has and a higher one hides.
const (
	overlapOf  = 20
	whiteoutOf = 50
)

// stack is a tree of files and the same tree spread over layers, below one base
// directory.
type stack struct {
	lowers []string // top first
	tree   string   // what their union shows
	items  string   // the file that lists the tree, for clients
	mnt    string   // the mount point
	index  string   // the directory for the index of the layers, made by the first that takes it

	base   string
	made   time.Time // after all of it
	layers []snapshot
}

// newStack spreads the files that fill makes in an empty directory over layers
// below base, an empty directory, and adds the big file, of size bytes.
func newStack(base string, layers int, size int64, fill func(dir string) error) (*stack, error) {
	s := &stack{base: base, tree: filepath.Join(base, "tree"), items: filepath.Join(base, "items"), mnt: filepath.Join(base, "mnt"),
		index: filepath.Join(base, "index")}
	for _, dir := range []string{s.tree, s.mnt, s.index} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
	}
	big := bytes.Repeat([]byte("varve\n\xff\x00"), int(size/8))
	if err := errors.Join(fill(s.tree), os.WriteFile(filepath.Join(s.tree, bigFile), big, 0o644)); err != nil {
		return nil, fmt.Errorf("make the tree: %w", err)
	}
	items, err := listItems(s.tree)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.spread(items, layers), s.writeItems(items)); err != nil {
		return nil, fmt.Errorf("spread the tree over layers: %w", err)
	}
	s.made = time.Now()
	s.layers, err = s.lookLayers()
	return s, err
}

// FromTar fills a directory from a tar file, as tar(1) does for this user.
func FromTar(path string) func(dir string) error {
	return func(dir string) error {
		out, err := exec.Command("tar", "--directory", dir, "--extract", "--preserve-permissions", "--file", path).CombinedOutput()
		if err != nil {
			return fmt.Errorf("tar: %w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	}
}

// SmallTree fills a directory with so many directories, each with forty files of a
// few bytes.
func SmallTree(dirs int) func(dir string) error {
	return func(dir string) error {
		for d := range dirs {
			sub := filepath.Join(dir, fmt.Sprintf("usr/d%03d", d))
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
			for f := range 40 {
				if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%02d", f)), bytes.Repeat([]byte("s"), d+f+1), 0o644); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// found is an item and the number of its inode.
type found struct {
	item
	ino uint64
}

// listItems lists all below the root of a tree.
func listItems(tree string) (list []found, err error) {
	err = filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == tree {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		i := item{Path: strings.TrimPrefix(path, tree+"/"), Size: st.Size, Kind: "o", One: st.Nlink == 1}
		switch {
		case d.IsDir():
			i.Kind = "d"
		case d.Type().IsRegular():
			i.Kind = "f"
		}
		list = append(list, found{i, st.Ino})
		return nil
	})
	return list, err
}

// writeItems leaves out the big file, which has rows of its own.
func (s *stack) writeItems(list []found) error {
	items := make([]item, len(list))
	for i, f := range list {
		items[i] = f.item
		if f.Path == bigFile {
			items[i].Kind = "o"
		}
	}
	data, err := json.Marshal(items)
	if err != nil {
		return err
	}
	return os.WriteFile(s.items, data, 0o644)
}

// spread puts each file into one layer, one layer after the other, and all the names
// of a hard link into the same; a layer has the directories on the way to its
// files. The big file is in the lowest.
func (s *stack) spread(items []found, layers int) error {
	content := make([][]string, layers) // of each layer, in the order of the walk
	of := map[uint64]int{}
	for i, f := range items {
		layer, known := of[f.ino]
		if !known {
			layer = i % layers
			of[f.ino] = layer
		}
		if f.Path == bigFile {
			layer = layers - 1
		}
		content[layer] = append(content[layer], f.Path)
	}
	for i, paths := range content {
		dir := filepath.Join(s.base, fmt.Sprintf("l%d", i))
		s.lowers = append(s.lowers, dir)
		if err := errors.Join(os.Mkdir(dir, 0o755), copyPaths(s.tree, dir, withParents(paths))); err != nil {
			return err
		}
	}
	for i, paths := range content[:layers-1] {
		if err := s.addHistory(i, paths); err != nil {
			return err
		}
	}
	return nil
}

// withParents puts the directories on the way before each path, once.
func withParents(paths []string) (list []string) {
	seen := map[string]bool{}
	var add func(path string)
	add = func(path string) {
		if seen[path] {
			return
		}
		seen[path] = true
		if path != "." {
			add(filepath.Dir(path))
		}
		list = append(list, path)
	}
	for _, p := range paths {
		add(p)
	}
	return list
}

// copyPaths copies exactly these paths with all they have.
func copyPaths(from, to string, paths []string) error {
	pack := exec.Command("tar", "--directory", from, "--create", "--format=posix", "--xattrs", "--no-recursion", "--null", "--files-from=-")
	unpack := exec.Command("tar", "--directory", to, "--extract", "--xattrs", "--xattrs-include=*", "--preserve-permissions")
	pack.Stdin = strings.NewReader(strings.Join(paths, "\x00"))
	pack.Stderr, unpack.Stderr = os.Stderr, os.Stderr
	pipe, err := pack.StdoutPipe()
	if err != nil {
		return err
	}
	unpack.Stdin = pipe
	if err := pack.Start(); err != nil {
		return err
	}
	return errors.Join(unpack.Run(), pack.Wait())
}

// addHistory puts older versions of files of one layer into the next one below, and
// files that the layer hides.
func (s *stack) addHistory(layer int, paths []string) error {
	for i, path := range paths {
		info, err := os.Lstat(filepath.Join(s.lowers[layer], path))
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() && i%overlapOf == 0 {
			err = s.addBelow(layer, path)
		}
		if err == nil && info.Mode().IsRegular() && i%whiteoutOf == 0 {
			gone := path + ".gone"
			err = errors.Join(s.addBelow(layer, gone), keepTime(filepath.Dir(filepath.Join(s.lowers[layer], gone)), func() error {
				return unix.Mknod(filepath.Join(s.lowers[layer], gone), unix.S_IFCHR, 0)
			}))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addBelow makes a file in the next layer.
func (s *stack) addBelow(layer int, path string) error {
	file := filepath.Join(s.lowers[layer+1], path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return keepTime(filepath.Dir(file), func() error { return os.WriteFile(file, []byte("an older version\n"), 0o644) })
}

// keepTime does what changes a directory, which keeps its time.
func keepTime(dir string, do func() error) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	return errors.Join(do(), os.Chtimes(dir, info.ModTime(), info.ModTime()))
}

// upper makes a fresh upper and work directory and returns how to remove them.
func (s *stack) upper() (upper, work string, remove func() error, err error) {
	top, err := os.MkdirTemp(s.base, "upper-")
	if err != nil {
		return "", "", nil, err
	}
	upper, work = filepath.Join(top, "upper"), filepath.Join(top, "work")
	err = errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755))
	return upper, work, func() error { return os.RemoveAll(top) }, err
}

func (s *stack) lookLayers() ([]snapshot, error) {
	var list []snapshot
	for _, dir := range s.lowers {
		one, err := look(dir, s.made)
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, nil
}

// check looks at the layers again and fails when anything changed.
func (s *stack) check() error {
	now, err := s.lookLayers()
	if err != nil {
		return err
	}
	for i := range now {
		if err := s.layers[i].same(now[i]); err != nil {
			return fmt.Errorf("layer %d is not what it was: %w", i, err)
		}
	}
	return nil
}

func (s *stack) remove() error { return os.RemoveAll(s.base) }
