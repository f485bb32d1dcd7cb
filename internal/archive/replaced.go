package archive

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/layout"
)

// The names in a layer directory.
const (
	diffName  = layout.DiffName
	indexName = "tar-split.gz"
	keptName  = "kept"
	listName  = "list" // in kept
)

// replacement says that what was at Path when the tar-split entry Before was
// about to be written lies in kept/ since then, all below it included.
type replacement struct {
	Path   []byte `json:"path"` // base64, since names need not be UTF-8
	Before int    `json:"before"`
}

// keeper moves what a later entry of the same archive replaces into kept/: the
// view no longer has it, but the layer's tar still does. The n-th line of
// kept/list tells about kept/n.
type keeper struct {
	layer int // the layer directory
	dir   int // kept, -1 until it is needed
	list  *os.File
	count int
}

func newKeeper(layer int) *keeper { return &keeper{layer: layer, dir: -1} }

func (k *keeper) begin() error {
	if k.dir >= 0 {
		return nil
	}
	if err := at.Mkdir(k.layer, keptName, 0o700); err != nil {
		return err
	}
	dir, err := at.OpenDir(k.layer, keptName)
	if err != nil {
		return err
	}
	fd, err := at.Open(dir, listName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return errors.Join(err, unix.Close(dir))
	}
	k.dir, k.list = dir, os.NewFile(uintptr(fd), listName)
	return nil
}

// keep moves name in dir, which the view has at path, out of the way.
func (k *keeper) keep(dir int, name, path string, before int) error {
	if err := k.begin(); err != nil {
		return err
	}
	line, err := json.Marshal(replacement{Path: []byte(path), Before: before})
	if err != nil {
		return err
	}
	if _, err := k.list.Write(append(line, '\n')); err != nil {
		return err
	}
	if err := at.Rename(dir, name, k.dir, strconv.Itoa(k.count), 0); err != nil {
		return err
	}
	k.count++
	return nil
}

// close frees what keep opened.
func (k *keeper) close() error {
	if k.dir < 0 {
		return nil
	}
	_ = unix.Close(k.dir) // read only
	return k.list.Close()
}

// kept is what a keeper wrote, read back.
type kept map[string][]event

type event struct{ before, number int }

// readKept returns nil for a layer where nothing was replaced.
func readKept(layer int) (kept, error) {
	fd, err := at.Beneath(layer, keptName+"/"+listName, unix.O_RDONLY)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), listName)
	defer func() { _ = file.Close() }() // read only
	return parseKept(bufio.NewReader(file))
}

func parseKept(r *bufio.Reader) (kept, error) {
	list := kept{}
	for number := 0; ; number++ {
		line, err := r.ReadBytes('\n')
		if err == io.EOF && len(bytes.TrimSpace(line)) == 0 {
			return list, nil
		}
		if err != nil && err != io.EOF {
			return nil, err
		}
		var one replacement
		if err := json.Unmarshal(line, &one); err != nil {
			return nil, fmt.Errorf("%s/%s, line %d: %w", keptName, listName, number+1, err)
		}
		path := string(one.Path)
		list[path] = append(list[path], event{one.Before, number})
	}
}

// locate returns where below the layer directory the payload of the tar-split
// entry position is, which was unpacked to path: where the first replacement
// after it took it, or else in diff/.
func (k kept) locate(position int, path string) string {
	best, where := -1, diffName+"/"+path
	if len(k) == 0 {
		return where
	}
	for end := range len(path) + 1 {
		if end < len(path) && path[end] != '/' {
			continue
		}
		for _, e := range k[path[:end]] { // in the order of time
			if e.before > position {
				if best < 0 || e.before < best {
					best, where = e.before, keptName+"/"+strconv.Itoa(e.number)+path[end:]
				}
				break
			}
		}
	}
	return strings.TrimSuffix(where, "/")
}
